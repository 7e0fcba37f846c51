// A client of protocol version 1 over WebSocket (docs/protocol.md), with MessagePack or JSON frames: connects, subscribes, applies
// deltas, comes back with jitter and resumes by position. It never shows a value that it is not sure of.

import { SUBPROTOCOLS, decodeFrame, encodeFrame, fullWireBytes, parsePayload, utf8Length, wireBytes } from "./frames.js";
import { apply } from "./json_patch.js";
import { decode } from "./vcdiff.js";

const FIRST_RETRY_MS = 300;
const LONGEST_RETRY_MS = 15_000;
const OVER_LIMIT_MS = 5_000;
const COMMAND_RETRY_MS = 1_000;
const PING_EVERY_MS = 15_000;
const PONG_WITHIN_MS = 10_000;
const ANSWER_WITHIN_MS = 10_000;
// After so many deltas that did not fit, a subscription does without.
const MAX_RESYNCS = 3;
// Of a channel that had no publication yet: from its beginning, whatever the epoch.
const BEGINNING = { epoch: null, offset: 0 };

// One channel that is wanted, and what is held of it.
export class Subscription {
  constructor(channel, { delta = [], mode = null, maxRate = null, window = null, onPublication = () => {}, onChange = () => {} } = {}) {
    this.channel = channel;
    this.wanted = delta;
    this.wish = { mode, max_rate: maxRate, window }; // null: whatever the edge gives to those who do not ask
    this.onPublication = onPublication;
    this.onChange = onChange;
    this.state = "waiting"; // waiting, asked, active, failed
    this.problem = null;
    this.command = 0;
    this.delta = null; // the format agreed on
    this.kind = null;
    this.mode = null;
    this.window = 0;
    this.unacknowledged = 0; // publications told since the last acknowledgement
    this.snapshotUpTo = 0; // offsets up to here were there before the subscription: their age says nothing of latency
    this.gaps = 0;
    this.resyncs = 0;
    this.keys = new Set(); // of a keyed channel: those that there are
    this.position = null; // of the last publication told, or where a stream or an empty channel stood: where to come back
    this.forget();
  }

  // What comes next is full, and judged by nothing of before.
  forget() {
    this.bases = new Map(); // of a keyed channel, by key: {position, value, bytes}
    this.isCatchingUp = true; // of a keyed channel: whether offsets skip, because of each key only the newest value comes
    this.at = null; // of the last publication that this subscription brought; null where any full one may come
    this.base = null; // position of the value that the next delta applies to
    this.value = undefined;
    this.bytes = null; // the payload's exact bytes, where they are known
  }
}

export class Client {
  // `format` is "msgpack" or "json". `socket`, `random` and the timers can be replaced by tests.
  constructor(url, { format = "msgpack", onState = () => {}, socket = (to, protocols) => new WebSocket(to, protocols), random = Math.random, timers = globalThis } = {}) {
    this.url = url;
    this.format = format;
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
    const socket = this._makeSocket(this.url, [SUBPROTOCOLS[this.format]]);
    socket.binaryType = "arraybuffer";
    this._socket = socket;
    this._lastId = 0;
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

  // `options`: `delta`, the formats in order of preference; `mode` ("queue", "conflate" or "ack"), `maxRate`, `window`; `onPublication(publication)` and `onChange(subscription)`.
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
    this._socket.send(encodeFrame(frame, this.format));
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
    for (const [name, value] of Object.entries(subscription.wish)) if (value !== null) frame[name] = value;
    if (subscription.position) frame.position = subscription.position;
    this._byCommand.set(subscription.command, subscription);
    this._send(frame);
    subscription.onChange(subscription);
  }

  _receive(message) {
    let frame;
    try {
      frame = decodeFrame(message);
    } catch (error) {
      // What it would have said is lost, so the connection is given up; the positions bring it again.
      this._giveUp(1000, String(error.message || error));
      return;
    }
    switch (frame.type) {
      case "publication": return this._publication(frame, wireBytes(message));
      case "connected": return this._connected(frame);
      case "subscribed": return this._subscribed(frame);
      case "gap": return this._gap(frame);
      case "caught_up": return this._caughtUp(frame);
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
    subscription.mode = frame.mode;
    subscription.window = frame.window ?? 0;
    subscription.unacknowledged = 0;
    subscription.forget();
    subscription.isCatchingUp = Boolean(frame.position);
    if (frame.recovered !== true) subscription.keys.clear();
    if (frame.recovered === true) subscription.at = subscription.position;
    else this._begin(subscription, frame);
    // With `recovered: true`, what follows was missed while away: its age is no latency either.
    subscription.snapshotUpTo = frame.position ? frame.position.offset : 0;
    this._byNumber.set(frame.number, subscription);
    subscription.onChange(subscription);
  }

  _begin(subscription, { position, kind, recovered }) {
    if (recovered === false) {
      subscription.gaps += 1;
      if (!position) subscription.position = BEGINNING; // it is gone: what comes of it now is new
    } else if (!position || kind === "stream") {
      // A stream goes on right behind the position that is told, a latest channel begins with its newest value.
      subscription.position = subscription.at = position ?? BEGINNING;
    }
  }

  _gap(frame) {
    const subscription = this._byNumber.get(frame.number);
    if (!subscription) return;
    subscription.gaps += 1;
    subscription.forget();
    subscription.keys.clear();
    subscription.isCatchingUp = Boolean(frame.epoch);
    subscription.onChange(subscription);
  }

  // All of a keyed channel's state has come.
  _caughtUp({ number, epoch, offset }) {
    const subscription = this._byNumber.get(number);
    if (!subscription) return;
    subscription.isCatchingUp = false;
    subscription.position = subscription.at = { epoch, offset };
    subscription.onChange(subscription);
  }

  _publication(frame, size) {
    const subscription = this._byNumber.get(frame.number);
    if (!subscription) return; // the tail of a subscription that was ended
    const { at } = subscription;
    const isSameEpoch = at !== null && (frame.delta !== null || frame.epoch === at.epoch);
    if (isSameEpoch && frame.offset <= at.offset) return; // seen already
    const mayFollow = isSameEpoch || at?.epoch === null;
    const maySkip = subscription.mode === "conflate" || (frame.key !== undefined && subscription.isCatchingUp);
    if (mayFollow && !maySkip && frame.offset > at.offset + 1) {
      this._askAgain(subscription);
      return;
    }
    try {
      this._turnTo(subscription, frame);
      if (frame.delta) this._applyDelta(subscription, frame);
      else this._takeFull(subscription, frame);
    } catch (error) {
      this._resync(subscription, error);
      return;
    }
    this._attempts = 0; // a connection that brings something is a good one
    const { value, bytes, position } = subscription;
    this._keep(subscription, frame);
    if (value === undefined) {
      this._acknowledge(subscription, frame.number);
      subscription.problem = `offset ${position.offset} is not ${frame.contentType}`;
      subscription.onChange(subscription);
      return;
    }
    // After a JSON Patch the payload's own bytes are not known; its value, written compactly, is as long but for rare forms of numbers.
    const payloadBytes = bytes ? bytes.length : utf8Length(JSON.stringify(value));
    subscription.onPublication({
      channel: subscription.channel,
      key: frame.key,
      isDeleted: frame.contentType === "none",
      tags: frame.tags,
      value,
      position,
      timeMs: frame.timeMs,
      isDelta: frame.delta !== null,
      isSnapshot: position.offset <= subscription.snapshotUpTo,
      wireBytes: size,
      fullWireBytes: fullWireBytes(frame, position.epoch, payloadBytes, this.format),
    });
    this._acknowledge(subscription, frame.number);
  }

  // What was told was handled: in mode ack the edge sends more for it. Half of a window at a time will do.
  _acknowledge(subscription, number) {
    subscription.unacknowledged += 1;
    if (subscription.mode !== "ack" || 2 * subscription.unacknowledged < subscription.window || this._byNumber.get(number) !== subscription) return;
    subscription.unacknowledged = 0;
    this._send({ type: "ack", number, ...subscription.position });
  }

  // What the next delta applies to: of a keyed channel, that of the publication's own key.
  _turnTo(subscription, { key }) {
    if (key === undefined) return;
    const held = subscription.bases.get(key);
    Object.assign(subscription, held ? { base: held.position, value: held.value, bytes: held.bytes } : { base: null, value: undefined, bytes: null });
  }

  _keep(subscription, { key, contentType }) {
    if (key === undefined) return;
    if (contentType === "none") {
      subscription.bases.delete(key);
      subscription.keys.delete(key);
      return;
    }
    const { base: position, value, bytes } = subscription;
    if (subscription.delta) subscription.bases.set(key, { position, value, bytes });
    subscription.keys.add(key);
  }

  _takeFull(subscription, frame) {
    const { at } = subscription;
    const value = frame.bytes ? valueOf(frame.bytes, frame.contentType) : frame.data;
    if (at && at.epoch !== null && at.epoch !== frame.epoch) subscription.gaps += 1;
    this._hold(subscription, { epoch: frame.epoch, offset: frame.offset }, value, frame.bytes);
  }

  _applyDelta(subscription, frame) {
    const { base } = subscription;
    if (!base || base.offset !== frame.base) throw new Error(`a delta to ${frame.base}, not to ${base ? base.offset : "nothing"}`);
    const position = { epoch: base.epoch, offset: frame.offset };
    if (frame.delta === "json-patch") {
      this._hold(subscription, position, apply(subscription.value, frame.data), null);
      return;
    }
    if (!subscription.bytes) throw new Error("a VCDIFF delta without exact bytes as its base");
    const bytes = decode(subscription.bytes, frame.bytes);
    this._hold(subscription, position, valueOf(bytes, frame.contentType), bytes);
  }

  _hold(subscription, position, value, bytes) {
    Object.assign(subscription, { position, at: position, base: position, value, bytes });
  }

  // Have what follows the position whole, as section 5 of the protocol says.
  _resync(subscription, error) {
    subscription.resyncs += 1;
    subscription.problem = String(error.message || error);
    if (subscription.resyncs >= MAX_RESYNCS) subscription.wanted = [];
    this._askAgain(subscription);
  }

  // From the position held; what is still on its way for the old subscription is not used.
  _askAgain(subscription) {
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
        this._giveUp(4002, "no answer");
      }
    }, delayMs);
  }

  // End a connection that is of no use, and come back.
  _giveUp(code, reason) {
    const socket = this._socket;
    this._closed(code, reason);
    socket.close(code);
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

// Undefined where the payload is not what its content type says: that is the writer's fault, and asking for it again would not help.
function valueOf(bytes, contentType) {
  try {
    return parsePayload(bytes, contentType);
  } catch {
    return undefined;
  }
}

function mayComeBack(code) {
  return !(code === 1003 || code === 1007 || code === 1009 || (code >= 4100 && code <= 4199));
}
