// VCDIFF (RFC 3284): makes a target from a source and a delta. The default code table, windows on the source only; no
// secondary compression, application header, checksum or VCD_TARGET (docs/protocol.md, section 5).

const MAGIC = [0xd6, 0xc3, 0xc4, 0x00];
const VCD_SOURCE = 1;
const NEAR_SIZE = 4;
const SAME_SIZE = 3;
const NOOP = 0, ADD = 1, RUN = 2, COPY = 3;
export const MAX_TARGET_BYTES = 16 * 1024 * 1024;

export class VcdiffError extends Error {}

// Rows of [type, size, mode, type, size, mode], built as RFC 3284 section 5.6 describes the table.
const CODE_TABLE = buildCodeTable();

function buildCodeTable() {
  const table = [[RUN, 0, 0, NOOP, 0, 0]];
  for (let size = 0; size <= 17; size++) table.push([ADD, size, 0, NOOP, 0, 0]);
  for (let mode = 0; mode <= 8; mode++) {
    table.push([COPY, 0, mode, NOOP, 0, 0]);
    for (let size = 4; size <= 18; size++) table.push([COPY, size, mode, NOOP, 0, 0]);
  }
  for (let mode = 0; mode <= 8; mode++) {
    for (let add = 1; add <= 4; add++) {
      const longest = mode <= 5 ? 6 : 4;
      for (let copy = 4; copy <= longest; copy++) table.push([ADD, add, 0, COPY, copy, mode]);
    }
  }
  for (let mode = 0; mode <= 8; mode++) table.push([COPY, 4, mode, ADD, 1, 0]);
  return table;
}

// A part of the delta that is read from its start to its end.
class Section {
  constructor(bytes, start, end, name) {
    if (end > bytes.length) throw new VcdiffError(`the ${name} ends early`);
    this.bytes = bytes;
    this.at = start;
    this.end = end;
    this.name = name;
  }

  get isEmpty() {
    return this.at >= this.end;
  }

  byte() {
    if (this.at >= this.end) throw new VcdiffError(`the ${this.name} ends early`);
    return this.bytes[this.at++];
  }

  // An integer, 7 bits a byte, the highest first.
  integer() {
    let value = 0;
    for (;;) {
      const byte = this.byte();
      value = value * 128 + (byte & 127);
      if (value > 0x7fffffff) throw new VcdiffError("a number is too large");
      if (byte < 128) return value;
    }
  }

  take(size) {
    if (this.at + size > this.end) throw new VcdiffError(`the ${this.name} ends early`);
    const taken = this.bytes.subarray(this.at, this.at + size);
    this.at += size;
    return taken;
  }

  // The next `size` bytes as a section of their own.
  section(size, name) {
    const section = new Section(this.bytes, this.at, Math.min(this.at + size, this.end), name);
    this.take(size);
    return section;
  }
}

// The addresses of the latest copies (RFC 3284, section 5.1).
class AddressCache {
  constructor() {
    this.near = new Array(NEAR_SIZE).fill(0);
    this.next = 0;
    this.same = new Array(SAME_SIZE * 256).fill(0);
  }

  read(mode, here, addresses) {
    let address;
    if (mode === 0) address = addresses.integer();
    else if (mode === 1) address = here - addresses.integer();
    else if (mode < 2 + NEAR_SIZE) address = this.near[mode - 2] + addresses.integer();
    else address = this.same[(mode - 2 - NEAR_SIZE) * 256 + addresses.byte()];
    if (address < 0 || address >= here) throw new VcdiffError("a copy starts outside of what is known");
    this.near[this.next] = address;
    this.next = (this.next + 1) % NEAR_SIZE;
    this.same[address % (SAME_SIZE * 256)] = address;
    return address;
  }
}

// The target that `delta` makes from `source`, all Uint8Array; throws VcdiffError where the delta is damaged or not of the kind above.
export function decode(source, delta) {
  const input = new Section(delta, 0, delta.length, "delta");
  for (const byte of MAGIC) {
    if (input.byte() !== byte) throw new VcdiffError("not a VCDIFF delta of version 0");
  }
  if (input.byte() !== 0) throw new VcdiffError("secondary compression, code tables and application headers are not read");
  const windows = [];
  let total = 0;
  while (!input.isEmpty) {
    const target = decodeWindow(source, input, MAX_TARGET_BYTES - total);
    windows.push(target);
    total += target.length;
  }
  return windows.length === 1 ? windows[0] : concatenate(windows, total);
}

function decodeWindow(source, input, limit) {
  const indicator = input.byte();
  if (indicator & ~VCD_SOURCE) throw new VcdiffError("a window of a kind that is not read (VCD_TARGET or a checksum)");
  let segment = source.subarray(0, 0);
  if (indicator & VCD_SOURCE) {
    const size = input.integer();
    const position = input.integer();
    if (position + size > source.length) throw new VcdiffError("the delta was made for a longer source");
    segment = source.subarray(position, position + size);
  }
  const encoding = input.section(input.integer(), "window");
  const targetSize = encoding.integer();
  if (targetSize > limit) throw new VcdiffError("the target is too large");
  if (encoding.byte() !== 0) throw new VcdiffError("secondary compression is not read");
  const dataSize = encoding.integer();
  const instructionsSize = encoding.integer();
  const addressesSize = encoding.integer();
  const data = encoding.section(dataSize, "data section");
  const instructions = encoding.section(instructionsSize, "instructions section");
  const addresses = encoding.section(addressesSize, "addresses section");
  if (!encoding.isEmpty) throw new VcdiffError("a window is longer than its sections");
  return execute(segment, targetSize, data, instructions, addresses);
}

function execute(segment, targetSize, data, instructions, addresses) {
  const target = new Uint8Array(targetSize);
  const cache = new AddressCache();
  let at = 0;

  function run(type, size, mode) {
    if (at + size > targetSize) throw new VcdiffError("the instructions make more than the target's size");
    if (type === ADD) target.set(data.take(size), at);
    else if (type === RUN) target.fill(data.byte(), at, at + size);
    else copy(cache.read(mode, segment.length + at, addresses), size);
    at += size;
  }

  // From the source, from the target made so far, or from the one into the other; a copy may overlap what it writes.
  function copy(address, size) {
    const fromSource = Math.max(0, Math.min(size, segment.length - address));
    if (fromSource) target.set(segment.subarray(address, address + fromSource), at);
    const shift = address - segment.length;
    for (let index = fromSource; index < size; index++) target[at + index] = target[shift + index];
  }

  while (!instructions.isEmpty) {
    const row = CODE_TABLE[instructions.byte()];
    for (let half = 0; half < 6; half += 3) {
      const type = row[half];
      if (type !== NOOP) run(type, row[half + 1] || instructions.integer(), row[half + 2]);
    }
  }
  if (at !== targetSize) throw new VcdiffError("the instructions make less than the target's size");
  if (!data.isEmpty || !addresses.isEmpty) throw new VcdiffError("data or addresses are left over");
  return target;
}

function concatenate(parts, total) {
  const whole = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
