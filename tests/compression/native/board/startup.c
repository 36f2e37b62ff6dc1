/* Start of a program on a bare Cortex-M4: the FPU on, then newlib's start, which calls main(). */
#include <stdint.h>

extern void _start(void);
extern uint32_t __stack;

__attribute__((noreturn)) void reset(void);
void reset(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the FPU */
    __asm volatile("dsb\n isb");
    _start();
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {&__stack, (const void *)reset};
