"""C for processors that QEMU emulates: a Cortex-M4 board and aarch64 Linux."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from trainers.tensors import FloatArray

HERE = Path(__file__).parent / "board"
CORTEX_M_TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")
CORTEX_M = ("-mthumb", "-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
AARCH64_TOOLS = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
AARCH64 = {"neon dotprod": "-march=armv8.2-a+dotprod", "plain": "-march=armv8-a"}
PAIRS = 16
Words = list[str | Path]


def run_on_cortex_m(program: Path, sources: Words, flags: Sequence[str], machine_options: Sequence[str] = ()) -> str:
    """What a program prints on QEMU's Cortex-M4; compiled into `program` first."""
    board: Words = [HERE / "startup.c", "-T", HERE / "mps2.ld", "--specs=rdimon.specs"]
    _run(["arm-none-eabi-gcc", "-std=c99", *CORTEX_M, *flags, *board, *sources, "-o", program, "-lm"])
    machine = ["qemu-system-arm", "-M", "mps2-an386", "-nographic", "-monitor", "none", "-serial", "none"]
    semihosting: Words = ["-semihosting-config", "enable=on,target=native", "-kernel", program]
    return _run([*machine, *machine_options, *semihosting])


def run_on_aarch64(program: Path, sources: Words, flags: Sequence[str]) -> str:
    """What a program prints on aarch64; compiled into `program` first."""
    compile_for_aarch64(program, sources, flags)
    return _run(["qemu-aarch64", program])


def compile_for_aarch64(program: Path, sources: Words, flags: Sequence[str]) -> None:
    """Without shared libraries: the emulator has none of that processor."""
    _run(["aarch64-linux-gnu-gcc", "-std=c99", "-static", *flags, *sources, "-o", program, "-lm"])


def cortex_m_instructions(folder: Path, obs: FloatArray, flags: Sequence[str]) -> int:
    """Instructions of a call on a Cortex-M4, the mean over the first 16 observations.

    With `-icount shift=0` an instruction takes a nanosecond of the board's clock, which the program reads.
    """
    _write_observations(folder, obs)
    sources: Words = [f"-I{folder}", HERE / "count_cortex_m.c", folder / "policy.c"]
    return int(run_on_cortex_m(folder / "count.elf", sources, flags, ["-icount", "shift=0"]))


def aarch64_instructions(folder: Path, obs: FloatArray, flags: Sequence[str]) -> int:
    """Instructions of a call on aarch64, the mean over the first 16 observations.

    With `-singlestep` QEMU translates one instruction at a time, and with `-d exec,nochain` it logs each of them.
    What the program does besides is taken off: a run of it that makes no call.
    """
    _write_observations(folder, obs)
    program = folder / "count"
    compile_for_aarch64(program, [f"-I{folder}", HERE / "count_aarch64.c", folder / "policy.c"], flags)
    return round((_logged_instructions(program, PAIRS) - _logged_instructions(program, 0)) / PAIRS)


def _logged_instructions(program: Path, calls: int) -> int:
    command: Words = ["qemu-aarch64", "-singlestep", "-d", "exec,nochain", program, f"{calls:02d}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        count = sum(line.startswith(b"Trace") for line in process.stderr)
    assert process.returncode == 0
    return count


def _write_observations(folder: Path, obs: FloatArray) -> None:
    rows = ",\n".join("{" + ", ".join(f"{value:.9e}f" for value in row) + "}" for row in obs[:PAIRS])
    table = f"#define PAIRS {PAIRS}\nstatic const float observations[PAIRS][POLICY_OBS_DIM] = {{\n{rows}}};\n"
    (folder / "observations.h").write_text(table)


def _run(command: Words) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=300).stdout
