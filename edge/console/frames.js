// Frames of protocol version 1, JSON and MessagePack (docs/protocol.md, sections 3, 4 and 6), as one kind of object, and their sizes.

import * as msgpack from "./msgpack.js";

export const SUBPROTOCOLS = { json: "distributary.v1.json", msgpack: "distributary.v1.msgpack" };
const DELTAS = [null, "vcdiff", "json-patch"];
// The last one is of a deletion, which has no payload.
const CONTENT_TYPES = ["application/json", "text/plain", "application/octet-stream", "none"];

const ENCODINGS = [undefined, "utf-8", "base64"];

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

const isInteger = (value) => Number.isSafeInteger(value) && value >= 0;
const isOffset = (value) => isInteger(value) && value > 0;
const isString = (value) => typeof value === "string";
const isWait = (value) => typeof value === "number" && value >= 0;
const isPosition = (value) => isObject(value) && isString(value.epoch) && isInteger(value.offset);
const optional = (isSo) => (value) => value === undefined || value === null || isSo(value);

// What the fields that are used must be, by type of frame. A type that is not here is a later version's.
const SHAPES = {
  connected: { id: isInteger },
  subscribed: { id: isInteger, channel: isString, number: isInteger, position: optional(isPosition) },
  gap: { reason: isString, number: isInteger },
  caught_up: { number: isInteger, epoch: isString, offset: isInteger },
  unsubscribed: { channel: isString, id: optional(isInteger) },
  pong: { id: isInteger },
  error: { code: isString, id: optional(isInteger) },
  drain: { reconnect_after_ms: isWait },
  full: { number: isInteger, offset: isOffset, epoch: isString, timeMs: optional(Number.isSafeInteger), key: optional(isString) },
  delta: { number: isInteger, offset: isOffset, base: isOffset, timeMs: optional(Number.isSafeInteger), key: optional(isString) },
};

export class FrameError extends Error {}

export function encodeFrame(frame, format) {
  return format === "msgpack" ? msgpack.encode(frame) : JSON.stringify(frame);
}

// A frame from the edge, text or an ArrayBuffer. A publication becomes {type, number, offset, epoch, base, delta, timeMs, key, tags, contentType,
// bytes, data}: `bytes` are the payload's or the VCDIFF delta's, or null where `data`, a JSON value, says it all. Throws where it cannot be read.
export function decodeFrame(message) {
  const frame = typeof message === "string" ? JSON.parse(message) : msgpack.decode(new Uint8Array(message));
  if (Array.isArray(frame) && typeof message !== "string") return checked(publicationOfArray(frame));
  if (!isObject(frame) || !isString(frame.type)) throw new FrameError("a frame without a type");
  return checked(frame.type === "publication" ? publicationOfObject(frame) : frame);
}

function checked(frame) {
  const shape = SHAPES[frame.type !== "publication" ? frame.type : frame.delta ? "delta" : "full"];
  for (const [name, isSo] of Object.entries(shape ?? {})) {
    if (!isSo(frame[name])) throw new FrameError(`${frame.type}: a wrong ${name}`);
  }
  return frame;
}

function publicationOfObject(frame) {
  const { number, offset, epoch, base, delta = null, time, key, tags, content_type: contentType = CONTENT_TYPES[0], encoding, data } = frame;
  if (frame.deleted === true) {
    if (!isString(key) || delta !== null) throw new FrameError("a deletion without a key, or as a delta");
    return { type: "publication", number, offset, epoch, delta, timeMs: time, key, tags, contentType: "none", bytes: null, data: null };
  }
  if (!DELTAS.includes(delta) || !CONTENT_TYPES.includes(contentType) || !ENCODINGS.includes(encoding)) throw new FrameError("a word that is not known");
  const isValue = delta === "json-patch" || (delta === null && contentType === CONTENT_TYPES[0]);
  if (data === undefined || (encoding ? !isString(data) : !isValue)) throw new FrameError("data and encoding do not fit");
  const bytes = !encoding ? null : encoding === "utf-8" ? encoder.encode(data) : fromBase64(data);
  return { type: "publication", number, offset, epoch, base, delta, timeMs: time, key, tags, contentType, bytes, data: encoding ? undefined : data };
}

function publicationOfArray([format, number, offset, origin, time, key, contentNumber, bytes, tags]) {
  const delta = DELTAS[format];
  const contentType = CONTENT_TYPES[contentNumber];
  if (delta === undefined || contentType === undefined || !(bytes instanceof Uint8Array)) throw new FrameError("a format that is not known, or no data");
  const place = delta ? { base: origin } : { epoch: origin };
  const isPatch = delta === "json-patch";
  if (contentType === "none") return { type: "publication", number, offset, ...place, delta, timeMs: time ?? undefined, key, tags, contentType, bytes: null, data: null };
  return {
    type: "publication", number, offset, ...place, delta, timeMs: time ?? undefined, key: key ?? undefined, tags, contentType,
    bytes: isPatch ? null : bytes, data: isPatch ? JSON.parse(decoder.decode(bytes)) : undefined,
  };
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// The value that the bytes of a payload stand for.
export function parsePayload(bytes, contentType) {
  if (contentType === "application/octet-stream") return bytes;
  const text = decoder.decode(bytes);
  return contentType === "text/plain" ? text : JSON.parse(text);
}

export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < binary.length; index++) bytes[index] = binary.charCodeAt(index);
  return bytes;
}

// --- Sizes ----------------------------------------------------------------------------------------------------------

// What a message took on the wire, with its header.
export function wireBytes(message) {
  return webSocketBytes(typeof message === "string" ? utf8Length(message) : message.byteLength);
}

// What the publication takes as a full frame of `format` that carries `payloadBytes` bytes of payload as they are.
export function fullWireBytes(publication, epoch, payloadBytes, format) {
  const { number, offset, timeMs, key, contentType } = publication;
  if (format === "msgpack") {
    const around = msgpack.encode([0, number, offset, epoch, timeMs ?? null, key ?? null, CONTENT_TYPES.indexOf(contentType)]).length;
    const head = payloadBytes <= 0xff ? 2 : payloadBytes <= 0xffff ? 3 : 5;
    return webSocketBytes(around + head + payloadBytes);
  }
  const isJson = contentType === CONTENT_TYPES[0];
  const around = { type: "publication", number, epoch, offset, time: timeMs, key, content_type: isJson ? undefined : contentType };
  return webSocketBytes(utf8Length(JSON.stringify(around)) + ',"data":'.length + payloadBytes);
}

export function utf8Length(text) {
  let length = text.length;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (unit < 0x80) continue;
    const isPair = unit >= 0xd800 && unit < 0xdc00;
    length += unit < 0x800 ? 1 : 2;
    if (isPair) index += 1; // two units, four bytes
  }
  return length;
}

// A frame of `payload` bytes from a server, with its header (RFC 6455, section 5.2).
export function webSocketBytes(payload) {
  return payload + (payload < 126 ? 2 : payload < 65_536 ? 4 : 10);
}
