/*
 * Instructions of one policy_step on QEMU's Cortex-M4 with -icount shift=0, where an instruction takes a nanosecond.
 * SysTick counts at 25 MHz, 40 instructions a tick: many calls are timed, with observations that differ.
 */
#include "policy.h"

#include <stdint.h>
#include <stdio.h>

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define INSTRUCTIONS_PER_TICK 40u

#include "observations.h"

int main(void)
{
    float action[POLICY_ACT_DIM];
    uint64_t ticks = 0;
    for (int n = 0; n < PAIRS; n++) {
        SYST_RVR = 0xffffffu;
        SYST_CVR = 0;
        SYST_CSR = 5;
        const uint32_t before = SYST_CVR;
        policy_step(observations[n], action);
        ticks += (before - SYST_CVR) & 0xffffffu;
    }
    printf("%lu\n", (unsigned long)(ticks * INSTRUCTIONS_PER_TICK / PAIRS));
    return 0;
}
