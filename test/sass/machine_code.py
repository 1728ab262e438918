"""What does a kernel's machine code say of it? Reads what `cuobjdump -sass` prints.

functions(text) gives each kernel's instructions, Flow(instructions) its loops and the way through one; the counts at
the end take any list of instructions. What they can and cannot see: README.md.
"""

import re
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\s*Function : (\S+)")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P[0-9T]+)\s+)?(\S+?)(?:\s+(.*?))?\s*;")
_TARGET = re.compile(r"(0x[0-9a-f]+)\s*$")
_REGISTER = re.compile(r"(?<![A-Za-z0-9_])R(\d+)")


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # "@P0", "@!P0", … or empty
    opcode: str  # with its modifiers: LDG.E.128
    operands: tuple  # as text

    @property
    def name(self):
        return self.opcode.split(".", 1)[0]

    @property
    def conditional(self):
        return bool(self.guard) and self.guard not in ("@PT", "@UPT")


def functions(text):
    """Mangled name → instructions in the order of their addresses."""
    found, code = {}, None
    for line in text.splitlines():
        if match := _FUNCTION.match(line):
            code = found.setdefault(match[1], [])
        elif code is not None and (match := _INSTRUCTION.match(line)):
            operands = tuple(part.strip() for part in match[4].split(",")) if match[4] else ()
            code.append(Instruction(int(match[1], 16), match[2] or "", match[3], operands))
    return found


# ---------------------------------------------------------------------------------------------------------- control flow

_ENDS = ("EXIT", "RET", "KILL", "BPT")
_BRANCHES = ("BRA", "JMP")


def _target(instruction):
    match = _TARGET.search(",".join(instruction.operands))
    return int(match[1], 16) if match else None


def _successors(code):
    """Where control goes after each instruction, as indices. Calls come back. The way of a warp whose lanes have parted
    before a shuffle (BRA.DIV) is left out: no kernel here is written to need it."""
    index = {instruction.address: i for i, instruction in enumerate(code)}
    meeting = {}  # where lanes that wait at a barrier go on
    for instruction in code:
        if instruction.name == "BSSY":
            meeting.setdefault(instruction.operands[0], set()).add(index[_target(instruction)])
    ways = []
    for i, instruction in enumerate(code):
        following = [i + 1] if i + 1 < len(code) else []
        if instruction.name in ("BRX", "JMX"):
            raise ValueError(f"an indirect branch at {instruction.address:#x}: what is a loop cannot be told")
        if instruction.name in _BRANCHES and ".DIV" not in instruction.opcode:
            always = not instruction.conditional and len(instruction.operands) == 1
            following = [index[_target(instruction)]] + ([] if always else following)
        elif instruction.name in _ENDS and not instruction.conditional:
            following = []
        elif instruction.name == "BSYNC":
            at = meeting.get(instruction.operands[0], set())
            following = following if not at or at & set(following) else sorted(at)
        ways.append(following)
    return ways


class Flow:
    """A kernel's instructions as blocks that control enters at the top and leaves at the bottom."""

    def __init__(self, code):
        self.code = code
        ways = _successors(code)
        starts = {0}
        for i, following in enumerate(ways):
            if following != [i + 1]:
                starts.update(following, [i + 1])
        starts = sorted(start for start in starts if start < len(code))
        number = {start: block for block, start in enumerate(starts)}
        self.blocks = [code[a:b] for a, b in zip(starts, starts[1:] + [len(code)])]
        self.successors = [[number[to] for to in ways[end - 1]] for end in starts[1:] + [len(code)]]
        self.above = self._dominators()
        self.loops = self._loops()

    def _order(self):
        """The blocks that control can reach, each before those that only it leads to."""
        order, seen, stack = [], {0}, [(0, iter(self.successors[0]))]
        while stack:
            block, following = stack[-1]
            to = next((to for to in following if to not in seen), None)
            if to is None:
                order.append(block)
                stack.pop()
            else:
                seen.add(to)
                stack.append((to, iter(self.successors[to])))
        return order[::-1]

    def _dominators(self):
        """Each block's dominators as a bit set; 0 for what nothing leads to."""
        order = self.order = self._order()
        before = {block: [a for a in order if block in self.successors[a]] for block in order}
        every = (1 << len(self.blocks)) - 1
        above = [0] * len(self.blocks)
        for block in order:
            above[block] = every
        above[0], moved = 1, True
        while moved:
            moved = False
            for block in order[1:]:
                common = every
                for a in before[block]:
                    common &= above[a]
                common |= 1 << block
                moved |= common != above[block]
                above[block] = common
        return above

    def is_back(self, block, to):
        """Whether the edge closes a loop: its end is passed on every way to its start."""
        return bool(self.above[block] >> to & 1)

    def _loops(self):
        """Natural loops, head → blocks."""
        bodies = {}
        for block in self.order:
            for head in filter(lambda to: self.is_back(block, to), self.successors[block]):
                body, open_ends = bodies.setdefault(head, {head}), [block]
                while open_ends:
                    one = open_ends.pop()
                    if one not in body:
                        body.add(one)
                        open_ends += [a for a in self.order if one in self.successors[a]]
        return bodies

    def instructions(self, blocks):
        return [instruction for block in sorted(blocks) for instruction in self.blocks[block]]

    def hot_loop(self, hot, needs=None, without=None):
        """The head of the loop that does the work: of those that hold no other with an instruction like `hot`, have one
        like `needs` and none like `without`, the one with the most of them. None where no loop has one."""
        matching = {head: count(self.instructions(body), hot) for head, body in self.loops.items()}

        def fits(head):
            code = self.instructions(self.loops[head])
            inner = any(matching[other] and self.loops[other] < self.loops[head] for other in self.loops)
            refused = (needs and not count(code, needs)) or (without and count(code, without))
            return matching[head] and not inner and not refused

        return max(filter(fits, self.loops), key=lambda head: (matching[head], -len(self.loops[head])), default=None)

    def around(self, head):
        """Heads of the loops around a loop, itself first."""
        inside = [other for other, body in self.loops.items() if self.loops[head] <= body]
        return sorted(inside, key=lambda other: len(self.loops[other]))

    def way(self, head, hot):
        """One round of a loop, or with head None the whole kernel, as the instructions that a warp passes: on the way
        through the most instructions like `hot`, of such ways the shortest. Loops within are passed once at most."""
        start = 0 if head is None else head
        inside = set(self.order) if head is None else self.loops[head]
        best = {start: ((0, 0), [])}  # block → ((−hot, length), blocks before it)
        ends = []
        for block in self.order:
            if block not in inside or block not in best:
                continue
            (fewer, length), before = best[block]
            cost = (fewer - count(self.blocks[block], hot), length + len(self.blocks[block]))
            following = self.successors[block]
            if (head in following) if head is not None else not following:
                ends.append((cost, before + [block]))
            for to in following:
                if to in inside and not self.is_back(block, to) and (to not in best or cost < best[to][0]):
                    best[to] = (cost, before + [block])
        _, blocks = min(ends)
        return [instruction for block in blocks for instruction in self.blocks[block]]


# ---------------------------------------------------------------------------------------------------------------- counts


def count(code, pattern):
    """Instructions whose opcode, modifiers included, starts with what the regular expression says."""
    matches = re.compile(pattern).match
    return sum(bool(matches(instruction.opcode)) for instruction in code)


def is_move(instruction):
    """Whether it only puts a register's value, or a constant, into a register: MOV and what ptxas writes in its place to
    spread work over the pipes."""
    name, opcode, operands = instruction.name, instruction.opcode, instruction.operands
    if name in ("MOV", "UMOV", "R2UR", "CS2R") or opcode.startswith("IMAD.MOV"):
        return name != "CS2R" or operands[-1] == "SRZ"
    if opcode.startswith("IMAD.U32"):
        return operands[1:3] == ("RZ", "RZ")
    return opcode.startswith("HFMA2.MMA") and operands[1:3] == ("-RZ", "RZ")


def moves(code):
    return sum(map(is_move, code))


def branches(code):
    """Branches and calls; of a loop, without the one that closes it."""
    found = sum(i.name in _BRANCHES + ("CALL",) and ".DIV" not in i.opcode for i in code)
    return found - (1 if found and code[-1].name in _BRANCHES else 0)


def guarded(code):
    """Instructions that take their slot and may do nothing: under a predicate, and no branch."""
    return sum(i.conditional and i.name not in _BRANCHES + ("CALL",) + _ENDS for i in code)


def spills(code):
    """Stores to and loads from a thread's local memory."""
    return count(code, r"(STL|LDL)\b")


def width(instruction):
    """Bytes that a thread moves by this load or store."""
    for part in instruction.opcode.split("."):
        if part in ("128", "64"):
            return int(part) // 8
        if part in ("U8", "S8"):
            return 1
        if part in ("U16", "S16"):
            return 2
    return 4


def _registers(operand):
    return {int(number) for number in _REGISTER.findall(operand)}


def bytes_in_flight(code, is_loop):
    """The most bytes of global memory that a thread has asked for and not touched yet. A loop is gone through twice, so
    that loads for the next round count. Loads into registers are complete when a register of theirs is named again; copies to
    shared memory at the wait for them (DEPBAR)."""
    flying, most = [], 0  # (registers or None, bytes)
    for instruction in list(code) * (2 if is_loop else 1):
        named = set().union(*map(_registers, instruction.operands)) if instruction.operands else set()
        waits = instruction.name == "DEPBAR"
        flying = [one for one in flying if (not waits if one[0] is None else not one[0] & named)]
        if instruction.name == "LDG":
            first = min(_registers(instruction.operands[0]), default=None)
            if first is not None:
                size = width(instruction)
                flying.append((set(range(first, first + max(size // 4, 1))), size))
        elif instruction.name == "LDGSTS":
            flying.append((None, width(instruction)))
        most = max(most, sum(size for _, size in flying))
    return most
