// MessagePack, as far as the protocol uses it: no extension types.

const decoder = new TextDecoder("utf-8", { fatal: true });
const encoder = new TextEncoder();

export class MessagePackError extends Error {}

// The one value in `bytes` (a Uint8Array). Strings are strings, binaries Uint8Arrays that share its memory, maps plain objects.
export function decode(bytes) {
  const reader = new Reader(bytes);
  const value = reader.value();
  if (reader.at !== bytes.length) throw new MessagePackError("something follows the value");
  return value;
}

class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.at = 0;
  }

  // Where the next `size` bytes start.
  skip(size) {
    const start = this.at;
    if (start + size > this.bytes.length) throw new MessagePackError("the value ends early");
    this.at += size;
    return start;
  }

  value() {
    const type = this.bytes[this.skip(1)];
    if (type < 0x80) return type;
    if (type < 0x90) return this.map(type & 0x0f);
    if (type < 0xa0) return this.array(type & 0x0f);
    if (type < 0xc0) return this.string(type & 0x1f);
    if (type >= 0xe0) return type - 0x100;
    switch (type) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.binary(this.unsigned(1));
      case 0xc5: return this.binary(this.unsigned(2));
      case 0xc6: return this.binary(this.unsigned(4));
      case 0xca: return this.view.getFloat32(this.skip(4));
      case 0xcb: return this.view.getFloat64(this.skip(8));
      case 0xcc: return this.unsigned(1);
      case 0xcd: return this.unsigned(2);
      case 0xce: return this.unsigned(4);
      case 0xcf: return Number(this.view.getBigUint64(this.skip(8)));
      case 0xd0: return this.view.getInt8(this.skip(1));
      case 0xd1: return this.view.getInt16(this.skip(2));
      case 0xd2: return this.view.getInt32(this.skip(4));
      case 0xd3: return Number(this.view.getBigInt64(this.skip(8)));
      case 0xd9: return this.string(this.unsigned(1));
      case 0xda: return this.string(this.unsigned(2));
      case 0xdb: return this.string(this.unsigned(4));
      case 0xdc: return this.array(this.unsigned(2));
      case 0xdd: return this.array(this.unsigned(4));
      case 0xde: return this.map(this.unsigned(2));
      case 0xdf: return this.map(this.unsigned(4));
      default: throw new MessagePackError(`type 0x${type.toString(16)} is not read`);
    }
  }

  unsigned(size) {
    const start = this.skip(size);
    return size === 1 ? this.view.getUint8(start) : size === 2 ? this.view.getUint16(start) : this.view.getUint32(start);
  }

  binary(size) {
    const start = this.skip(size);
    return this.bytes.subarray(start, start + size);
  }

  string(size) {
    return decoder.decode(this.binary(size));
  }

  array(size) {
    const items = [];
    for (let count = 0; count < size; count++) items.push(this.value());
    return items;
  }

  map(size) {
    const entries = [];
    for (let count = 0; count < size; count++) entries.push([this.value(), this.value()]);
    return Object.fromEntries(entries);
  }
}

// `value` as MessagePack: null, booleans, numbers, strings, Uint8Arrays, arrays and plain objects (members that are undefined are left out).
export function encode(value) {
  const out = [];
  write(out, value);
  return Uint8Array.from(out);
}

function write(out, value) {
  if (value === null || value === undefined) out.push(0xc0);
  else if (typeof value === "boolean") out.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") writeNumber(out, value);
  else if (typeof value === "string") {
    const bytes = encoder.encode(value);
    writeHead(out, bytes.length, [[31, 0xa0], [0xff, 0xd9], [0xffff, 0xda], [Infinity, 0xdb]]);
    out.push(...bytes);
  } else if (value instanceof Uint8Array) {
    writeHead(out, value.length, [[0xff, 0xc4], [0xffff, 0xc5], [Infinity, 0xc6]]);
    out.push(...value);
  } else if (Array.isArray(value)) {
    writeHead(out, value.length, [[15, 0x90], [0xffff, 0xdc], [Infinity, 0xdd]]);
    for (const item of value) write(out, item);
  } else {
    const entries = Object.entries(value).filter(([, member]) => member !== undefined);
    writeHead(out, entries.length, [[15, 0x80], [0xffff, 0xde], [Infinity, 0xdf]]);
    for (const [name, member] of entries) {
      write(out, name);
      write(out, member);
    }
  }
}

// The shortest head for a size: below 32 in the type's byte itself, else the type's byte and the size.
function writeHead(out, size, types) {
  const [limit, type] = types.find(([most]) => size <= most);
  if (limit < 32) out.push(type | size);
  else out.push(type, ...bigEndian(size, limit === 0xff ? 1 : limit === 0xffff ? 2 : 4));
}

function writeNumber(out, value) {
  if (!Number.isSafeInteger(value)) {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setFloat64(0, value);
    out.push(0xcb, ...bytes);
  } else if (value < 0) {
    if (value >= -32) out.push(value + 0x100);
    else out.push(0xd3, ...new Uint8Array(new BigInt64Array([BigInt(value)]).buffer).reverse());
  } else if (value < 0x80) out.push(value);
  else if (value <= 0xff) out.push(0xcc, value);
  else if (value <= 0xffff) out.push(0xcd, ...bigEndian(value, 2));
  else if (value <= 0xffffffff) out.push(0xce, ...bigEndian(value, 4));
  else out.push(0xcf, ...bigEndian(value, 8));
}

function bigEndian(value, size) {
  const bytes = [];
  for (let index = 0, rest = value; index < size; index++) {
    bytes.unshift(rest % 256);
    rest = Math.floor(rest / 256);
  }
  return bytes;
}
