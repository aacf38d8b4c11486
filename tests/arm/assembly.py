"""What the compiler made of the loops that matter on ARM: read in the assembly of the built objects.

    python3 tests/arm/assembly.py BUILD [--objdump aarch64-linux-gnu-objdump] [--list]

A loop is what a branch backwards encloses. Fails unless the scan for degree 7, sixteen vectors of four tokens,
multiplies and adds on vectors (`fmla v.4s`) with its accumulators in registers throughout, and float16 is widened by
its own instruction. `--list` shows every innermost loop that multiplies and adds.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ACCUMULATORS = 16  # vectors of a tile of 64 tokens


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


class Loop(NamedTuple):
    function: str
    body: list[Instruction]

    def count(self, name: str, operands: str = "") -> int:
        return sum(bool(re.fullmatch(name, i.name) and re.search(operands, i.operands)) for i in self.body)

    @property
    def multiply_adds(self) -> int:
        return self.count("fml[as]", r"^v\d+\.4s")

    @property
    def loads(self) -> int:
        return self.count("ldu?r", r"^q\d+") + 2 * self.count("ldp", r"^q\d+")

    @property
    def stores(self) -> int:
        return self.count("stu?r", r"^q\d+") + 2 * self.count("stp", r"^q\d+")

    @property
    def spilled(self) -> int:
        """Vectors written to the stack."""
        return self.count("stu?r", r"^q\d+.*\[sp") + 2 * self.count("stp", r"^q\d+.*\[sp")

    @property
    def from_stack(self) -> int:
        return self.count("ldu?r", r"^q\d+.*\[sp") + 2 * self.count("ldp", r"^q\d+.*\[sp")

    def encloses(self, other: "Loop") -> bool:
        """Whether `other` is a smaller loop inside."""
        first, last = self.body[0].address, self.body[-1].address
        inside = first <= other.body[0].address and other.body[-1].address <= last
        return self.function == other.function and inside and len(other.body) < len(self.body)

    def describe(self) -> str:
        return (
            f"{len(self.body)} instructions, {self.multiply_adds} vector multiply-adds, {self.loads} vector loads "
            f"({self.from_stack} from the stack), {self.stores} vector stores ({self.spilled} to the stack)"
        )


def functions(objdump: str, path: Path) -> dict[str, list[Instruction]]:
    """The code of an object file by function; calls and jumps to other functions are left out."""
    command = [objdump, "-d", "-r", "-C", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    for line in text.splitlines():
        if header := re.fullmatch(r"[0-9a-f]+ <(.*)>:", line):
            code = found.setdefault(header[1].replace("(anonymous namespace)::", ""), [])
        elif re.search(r"R_AARCH64_(JUMP|CALL)26", line):
            code.pop()
        elif parts := re.fullmatch(r" *([0-9a-f]+):\t(\S+)\t?(.*)", line):
            code.append(Instruction(int(parts[1], 16), parts[2], parts[3]))
    return found


def loops(name: str, code: list[Instruction]) -> list[Loop]:
    """Every loop of a function."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    found = []
    for i, instruction in enumerate(code):
        target = re.search(r"\b([0-9a-f]+) <", instruction.operands)
        if not target or not re.fullmatch(r"b(\..*)?|cbn?z|tbn?z", instruction.name):
            continue
        start = at.get(int(target[1], 16))
        if start is not None and start <= i:
            found.append(Loop(name, code[start : i + 1]))
    return found


def innermost(of: list[Loop]) -> list[Loop]:
    return [loop for loop in of if not any(loop.encloses(other) for other in of)]


def check_scan(code: dict[str, list[Instruction]]) -> list[str]:
    """What is wrong with the scan for degree 7; prints what is there."""
    wrong = []
    pattern = rf"scan_tile<.*TileScan<{4 * ACCUMULATORS}>, .*Degree<7>, (false|true)>"
    names = [name for name in code if re.search(pattern, name)]
    if len(names) != 2:
        return [f"the scan for degree 7 was to be found as two functions, by value and by size; there are {len(names)}"]
    for name in names:
        kind = "by size" if ", true>" in name else "by value"
        all_loops = loops(name, code[name])
        hot = [loop for loop in innermost(all_loops) if loop.multiply_adds >= ACCUMULATORS]
        if len(hot) != 2:
            wrong.append(f"{kind}: two loops were to multiply and add, of the sample and of the scan; {len(hot)} do")
        for loop in hot:
            print(f"scan, degree 7, {kind}: a row: {loop.describe()}")
            if loop.multiply_adds != ACCUMULATORS or loop.loads != ACCUMULATORS or loop.stores or loop.from_stack:
                wrong.append(f"{kind}: a row should be 16 loads, 16 multiply-adds and no store")
        around = [outer for outer in all_loops if hot and outer.encloses(hot[-1])]
        if not around:
            continue
        # The smallest: a larger one has the rare latent in it after which the log is emptied.
        latent = min(around, key=lambda loop: len(loop.body))
        print(f"scan, degree 7, {kind}: a latent, its rows' loop once: {latent.describe()}")
        if latent.spilled:
            wrong.append(f"{kind}: {latent.spilled} vectors are spilled to the stack for every latent")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("build", type=Path)
    parser.add_argument("--objdump", default="aarch64-linux-gnu-objdump")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    objects = {path.name: path for path in options.build.glob("CMakeFiles/neon.dir/**/*.o")}
    if not objects:
        print(f"no objects of the set neon under {options.build}: build it first", file=sys.stderr)
        return 1
    code = {name.removesuffix(".cpp.o"): functions(options.objdump, path) for name, path in sorted(objects.items())}

    wrong = check_scan(code["scan"])
    vector = [
        (file, loop)
        for file, by_name in code.items()
        for name, own in by_name.items()
        for loop in innermost(loops(name, own))
        if loop.multiply_adds
    ]
    spilling = [(file, loop) for file, loop in vector if loop.spilled]
    print(f"{len(vector)} innermost loops multiply and add on vectors; {len(spilling)} of them spill a vector")
    for file, loop in vector if options.list else spilling:
        print(f"  {file}: {loop.describe()}\n    {loop.function[:200]}")
    widened = sum(i.name in ("fcvtl", "fcvtl2") for own in code["encode_topk"].values() for i in own)
    print(f"encode_topk: {widened} times four float16 numbers are widened by fcvtl")
    if not widened:
        wrong.append("float16 tokens are not widened by fcvtl")
    for line in wrong:
        print(f"FAILED: {line}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
