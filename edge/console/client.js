// A client of protocol version 1 over WebSocket with JSON frames (docs/protocol.md): connects, subscribes, applies deltas,
// comes back with jitter and resumes by position. It never shows a value that it is not sure of.

import { apply } from "./json_patch.js";
import { decode } from "./vcdiff.js";

const FIRST_RETRY_MS = 300;
const LONGEST_RETRY_MS = 15_000;
const OVER_LIMIT_MS = 2_000;
const COMMAND_RETRY_MS = 1_000;
const PING_EVERY_MS = 15_000;
const PONG_WITHIN_MS = 10_000;
const ANSWER_WITHIN_MS = 10_000;
// After so many deltas that did not fit, a subscription does without.
const MAX_RESYNCS = 3;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

// One channel that is wanted, and what is held of it.
export class Subscription {
  constructor(channel, { delta = [], onPublication = () => {}, onChange = () => {} } = {}) {
    this.channel = channel;
    this.wanted = delta;
    this.onPublication = onPublication;
    this.onChange = onChange;
    this.state = "waiting"; // waiting, asked, active, failed
    this.problem = null;
    this.command = 0;
    this.delta = null; // the format agreed on
    this.kind = null;
    this.snapshotUpTo = 0; // offsets up to here were there before the subscription: their age says nothing of latency
    this.gaps = 0;
    this.resyncs = 0;
    this.forget();
  }

  forget() {
    this.position = null;
    this.value = undefined;
    this.bytes = null; // the payload's exact bytes, where they are known
  }
}

export class Client {
  // `socket`, `random` and the timers can be replaced by tests.
  constructor(url, { onState = () => {}, socket = (to, protocols) => new WebSocket(to, protocols), random = Math.random, timers = globalThis } = {}) {
    this.url = url;
    this.onState = onState;
    this.state = "closed"; // connecting, connected, waiting, stopped, closed
    this.detail = "";
    this.session = null;
    this.limits = null;
    this.reconnects = 0;
    this.subscriptions = new Map();
    this._makeSocket = socket;
    this._random = random;
    this._timers = timers;
    this._socket = null;
    this._byNumber = new Map();
    this._byCommand = new Map();
    this._lastId = 0;
    this._attempts = 0;
    this._drainUntilMs = 0;
    this._timer = null;
    this._watchdog = null;
  }

  open() {
    if (this._socket) return;
    this._timers.clearTimeout(this._timer);
    this._setState("connecting", "");
    const socket = this._makeSocket(this.url, ["distributary.v1.json"]);
    this._socket = socket;
    // An event of a socket that was given up already must change nothing.
    const ifCurrent = (handle) => (event) => { if (this._socket === socket) handle(event); };
    socket.onopen = ifCurrent(() => {
      this._send({ type: "connect", id: this._id(), client: "distributary-console/1" });
      this._watch(ANSWER_WITHIN_MS);
    });
    socket.onmessage = ifCurrent((event) => this._receive(event.data));
    socket.onclose = ifCurrent((event) => this._closed(event.code, event.reason));
  }

  close() {
    const socket = this._socket;
    this._release();
    this._timers.clearTimeout(this._timer);
    if (socket) socket.close(1000);
    this._setState("closed", "");
  }

  // `options`: `delta`, the formats in order of preference; `onPublication(publication)` and `onChange(subscription)`.
  subscribe(channel, options) {
    if (this.subscriptions.has(channel)) this.unsubscribe(channel);
    const subscription = new Subscription(channel, options);
    this.subscriptions.set(channel, subscription);
    if (this.state === "connected") this._ask(subscription);
    return subscription;
  }

  unsubscribe(channel) {
    const subscription = this.subscriptions.get(channel);
    if (!subscription) return;
    this.subscriptions.delete(channel);
    this._forgetNumbers(subscription);
    if (this.state === "connected" && (subscription.state === "asked" || subscription.state === "active")) {
      this._send({ type: "unsubscribe", id: this._id(), channel });
    }
    subscription.state = "ended";
  }

  _id() {
    return ++this._lastId;
  }

  _send(frame) {
    this._socket.send(JSON.stringify(frame));
  }

  _setState(state, detail) {
    this.state = state;
    this.detail = detail;
    this.onState(this);
  }

  _ask(subscription) {
    subscription.command = this._id();
    subscription.state = "asked";
    const frame = { type: "subscribe", id: subscription.command, channel: subscription.channel };
    if (subscription.wanted.length) frame.delta = subscription.wanted;
    if (subscription.position) frame.position = subscription.position;
    this._byCommand.set(subscription.command, subscription);
    this._send(frame);
    subscription.onChange(subscription);
  }

  _receive(text) {
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return; // not ours to repair; the next frame may be sound
    }
    switch (frame.type) {
      case "publication": return this._publication(frame, text);
      case "connected": return this._connected(frame);
      case "subscribed": return this._subscribed(frame);
      case "gap": return this._gap(frame);
      case "pong": return this._watch(PING_EVERY_MS);
      case "unsubscribed": return this._unsubscribed(frame);
      case "error": return this._error(frame);
      case "drain": {
        this._drainUntilMs = Date.now() + frame.reconnect_after_ms;
        return undefined;
      }
      default: return undefined; // a later version's frame
    }
  }

  _connected(frame) {
    this._attempts = 0;
    this.session = frame.session;
    this.limits = frame;
    this._setState("connected", "");
    this._watch(PING_EVERY_MS);
    for (const subscription of this.subscriptions.values()) {
      if (subscription.state !== "failed") this._ask(subscription);
    }
  }

  _subscribed(frame) {
    const subscription = this._answered(frame.id);
    if (!subscription) return;
    subscription.state = "active";
    subscription.problem = null;
    subscription.delta = frame.delta;
    subscription.kind = frame.kind;
    if (frame.recovered === false) {
      subscription.gaps += 1;
      subscription.forget();
    }
    // With `recovered: true`, what follows was missed while away: its age is no latency either.
    subscription.snapshotUpTo = frame.position ? frame.position.offset : 0;
    this._byNumber.set(frame.number, subscription);
    subscription.onChange(subscription);
  }

  _gap(frame) {
    const subscription = this._byNumber.get(frame.number);
    if (!subscription) return;
    subscription.gaps += 1;
    subscription.forget();
    subscription.onChange(subscription);
  }

  _publication(frame, text) {
    const subscription = this._byNumber.get(frame.number);
    if (!subscription) return; // the tail of a subscription that was ended
    const isDelta = frame.delta !== undefined;
    try {
      if (isDelta) this._applyDelta(subscription, frame);
      else if (!this._takeFull(subscription, frame)) return;
    } catch (error) {
      this._resync(subscription, error);
      return;
    }
    const wireBytes = webSocketBytes(utf8Length(text));
    const { value, position } = subscription;
    subscription.onPublication({
      channel: subscription.channel,
      value,
      position,
      timeMs: frame.time,
      isDelta,
      isSnapshot: position.offset <= subscription.snapshotUpTo,
      wireBytes,
      fullWireBytes: isDelta || frame.encoding ? fullWireBytes(frame, position, subscription) : wireBytes,
    });
  }

  // Whether the publication is a new one.
  _takeFull(subscription, frame) {
    const held = subscription.position;
    if (held && held.epoch === frame.epoch && frame.offset <= held.offset) return false;
    const bytes = payloadBytes(frame);
    subscription.value = bytes ? parsePayload(bytes, frame.content_type) : frame.data;
    subscription.bytes = bytes;
    subscription.position = { epoch: frame.epoch, offset: frame.offset };
    return true;
  }

  _applyDelta(subscription, frame) {
    const held = subscription.position;
    if (!held || held.offset !== frame.base) throw new Error(`a delta to ${frame.base}, not to ${held ? held.offset : "nothing"}`);
    if (frame.delta === "vcdiff") {
      if (!subscription.bytes) throw new Error("a VCDIFF delta without exact bytes as its base");
      subscription.bytes = decode(subscription.bytes, fromBase64(frame.data));
      subscription.value = parsePayload(subscription.bytes, frame.content_type);
    } else if (frame.delta === "json-patch") {
      subscription.value = apply(subscription.value, frame.data);
      subscription.bytes = null;
    } else {
      throw new Error(`a delta of unknown format ${frame.delta}`);
    }
    subscription.position = { epoch: held.epoch, offset: frame.offset };
  }

  // Drop the value and start anew, as section 5 of the protocol says.
  _resync(subscription, error) {
    subscription.resyncs += 1;
    subscription.problem = String(error.message || error);
    if (subscription.resyncs >= MAX_RESYNCS) subscription.wanted = [];
    subscription.forget();
    this._forgetNumbers(subscription);
    this._send({ type: "unsubscribe", id: this._id(), channel: subscription.channel });
    this._ask(subscription);
  }

  _unsubscribed(frame) {
    if (frame.id !== undefined && frame.id !== null) return;
    const subscription = this.subscriptions.get(frame.channel);
    if (!subscription) return;
    this._forgetNumbers(subscription);
    this._refused(subscription, frame);
  }

  _error(frame) {
    const subscription = this._answered(frame.id);
    if (subscription) this._refused(subscription, frame);
  }

  _refused(subscription, { message, retry }) {
    subscription.problem = message;
    subscription.state = retry ? "waiting" : "failed";
    subscription.onChange(subscription);
    if (!retry) return;
    this._timers.setTimeout(() => {
      const isStillWanted = this.subscriptions.get(subscription.channel) === subscription && subscription.state === "waiting";
      if (isStillWanted && this.state === "connected") this._ask(subscription);
    }, COMMAND_RETRY_MS * (0.5 + this._random()));
  }

  // The subscription whose newest command `id` answers.
  _answered(id) {
    const subscription = this._byCommand.get(id);
    this._byCommand.delete(id);
    return subscription && subscription.command === id && subscription.state === "asked" ? subscription : null;
  }

  _forgetNumbers(subscription) {
    for (const [number, holder] of this._byNumber) {
      if (holder === subscription) this._byNumber.delete(number);
    }
  }

  // The edge watches its side with pings that a page cannot see; this watches ours.
  _watch(delayMs) {
    this._timers.clearTimeout(this._watchdog);
    this._watchdog = this._timers.setTimeout(() => {
      if (this.state === "connected" && delayMs === PING_EVERY_MS) {
        this._send({ type: "ping", id: this._id() });
        this._watch(PONG_WITHIN_MS);
      } else {
        const socket = this._socket;
        this._closed(4002, "no answer");
        socket.close(4002);
      }
    }, delayMs);
  }

  _release() {
    this._socket = null;
    this.session = null;
    this._timers.clearTimeout(this._watchdog);
    this._byNumber.clear();
    this._byCommand.clear();
    for (const subscription of this.subscriptions.values()) {
      if (subscription.state !== "failed") subscription.state = "waiting";
    }
  }

  _closed(code, reason) {
    this._release();
    if (!mayComeBack(code)) {
      this._setState("stopped", `${reason || "closed"} (${code})`);
      return;
    }
    const delayMs = this._retryDelay(code);
    this.reconnects += 1;
    this._setState("waiting", reason || (code === 1006 ? "no connection" : `closed (${code})`));
    this._timer = this._timers.setTimeout(() => this.open(), delayMs);
  }

  // Doubling, half of it random, so that clients that lost one edge do not come back at once.
  _retryDelay(code) {
    const ceiling = Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** this._attempts);
    this._attempts += 1;
    const jittered = ceiling * (0.5 + this._random() / 2);
    const drain = Math.max(0, this._drainUntilMs - Date.now());
    return Math.max(jittered, code === 4003 ? OVER_LIMIT_MS * (1 + this._random()) : 0) + drain;
  }
}

function mayComeBack(code) {
  return !(code === 1003 || code === 1007 || code === 1009 || (code >= 4100 && code <= 4199));
}

// The exact bytes of a full publication, or null where its `data` is a JSON value.
function payloadBytes(frame) {
  if (frame.encoding === undefined) return null;
  return frame.encoding === "base64" ? fromBase64(frame.data) : encoder.encode(frame.data);
}

function parsePayload(bytes, contentType) {
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

// What the same publication takes as a full frame whose `data` is the payload itself.
function fullWireBytes(frame, position, subscription) {
  const { number, time, key, content_type } = frame;
  const rest = JSON.stringify({ type: "publication", number, epoch: position.epoch, offset: position.offset, time, key, content_type });
  const payload = subscription.bytes ? subscription.bytes.length : utf8Length(JSON.stringify(subscription.value));
  return webSocketBytes(utf8Length(rest) + ',"data":'.length + payload);
}
