// The page's client against a socket made of arrays: what it sends for what it gets. Run by test_client_js.py beside copies of the page's modules.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { Client } from "./client.js";
import { Fleet } from "./fleet.js";
import { decodeFrame, encodeFrame, fullWireBytes, utf8Length, webSocketBytes } from "./frames.js";
import * as msgpack from "./msgpack.js";
import { Latency, Stats } from "./stats.js";

const EPOCH = "AAECAwQFBgcICQoL";

class Timers {
  constructor() {
    this.pending = new Map();
    this.last = 0;
    this.setTimeout = (run, delayMs) => {
      this.pending.set(++this.last, { run, delayMs });
      return this.last;
    };
    this.clearTimeout = (id) => this.pending.delete(id);
  }

  // Let every timer run that waits for less than `ms`.
  pass(ms) {
    for (const [id, { run, delayMs }] of [...this.pending]) {
      if (delayMs < ms && this.pending.delete(id)) run();
    }
  }
}

class Rig {
  constructor({ random = () => 0.5 } = {}) {
    this.timers = new Timers();
    this.sockets = [];
    this.states = [];
    this.got = [];
    this.client = new Client("ws://edge/v1/ws", {
      format: "json",
      socket: (url, protocols) => {
        const socket = { url, protocols, sent: [], send: (text) => socket.sent.push(JSON.parse(text)), close: (code) => { socket.closedWith = code; } };
        this.sockets.push(socket);
        return socket;
      },
      random,
      timers: this.timers,
      onState: ({ state }) => this.states.push(state),
    });
  }

  get socket() {
    return this.sockets.at(-1);
  }

  connect() {
    if (!this.sockets.length || this.client.state !== "connecting") this.client.open();
    this.socket.onopen({});
    const hello = this.socket.sent.at(-1);
    assert.equal(hello.type, "connect");
    this.receive({ type: "connected", id: hello.id, session: "s1", version: 1 });
    return this;
  }

  receive(frame) {
    this.socket.onmessage({ data: JSON.stringify(frame) });
  }

  subscribe(channel, options = {}) {
    return this.client.subscribe(channel, { onPublication: (publication) => this.got.push(publication), ...options });
  }

  // Answer the newest subscribe command.
  subscribed({ number = 7, kind = "latest", delta = null, position = { epoch: EPOCH, offset: 1 }, recovered = null, mode = "queue", ...more } = {}) {
    const command = this.sent("subscribe").at(-1);
    this.receive({ type: "subscribed", id: command.id, channel: command.channel, number, kind, mode, delta, position, recovered, ...more });
    return command;
  }

  sent(type) {
    return this.socket.sent.filter((frame) => frame.type === type);
  }

  full(offset, data, more = {}) {
    this.receive({ type: "publication", number: 7, epoch: EPOCH, offset, time: 1000, data, ...more });
  }

  delta(offset, base, delta, data) {
    this.receive({ type: "publication", number: 7, offset, base, delta, time: 1000, data, ...(delta === "vcdiff" ? { encoding: "base64" } : {}) });
  }

  get values() {
    return this.got.map(({ value }) => value);
  }
}

test("it connects first, and subscribes to what is wanted by then", () => {
  const rig = new Rig();
  rig.subscribe("bus:1430", { delta: ["vcdiff"] });
  rig.connect();
  assert.deepEqual(rig.socket.protocols, ["distributary.v1.json"]);
  assert.deepEqual(rig.socket.sent.map(({ type }) => type), ["connect", "subscribe"]);
  assert.deepEqual(rig.sent("subscribe")[0].delta, ["vcdiff"]);
  assert.equal(rig.sent("subscribe")[0].position, undefined);
});

test("full publications and JSON patches make values, each with its position", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["json-patch"] });
  rig.subscribed({ delta: "json-patch", position: { epoch: EPOCH, offset: 4 } });
  rig.full(4, { lat: 1 });
  rig.delta(5, 4, "json-patch", [{ op: "replace", path: "/lat", value: 2 }]);
  rig.full(6, { lat: 9 });
  assert.deepEqual(rig.values, [{ lat: 1 }, { lat: 2 }, { lat: 9 }]);
  assert.deepEqual(rig.got.map(({ position }) => position), [4, 5, 6].map((offset) => ({ epoch: EPOCH, offset })));
  assert.deepEqual(rig.got.map(({ isSnapshot }) => isSnapshot), [true, false, false]);
});

test("of a keyed channel each key has a base of its own, and offsets skip until all has come", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("fleet", { delta: ["json-patch"] });
  rig.subscribed({ kind: "keyed", delta: "json-patch", position: { epoch: EPOCH, offset: 12 } });
  rig.full(3, { lat: 1 }, { key: "a" });
  rig.full(9, { lat: 2 }, { key: "b", tags: { source: "gps" } });
  rig.receive({ type: "caught_up", number: 7, epoch: EPOCH, offset: 12 });
  rig.receive({ type: "publication", number: 7, offset: 13, base: 3, delta: "json-patch", key: "a", data: [{ op: "replace", path: "/lat", value: 5 }] });
  rig.receive({ type: "publication", number: 7, epoch: EPOCH, offset: 14, key: "b", deleted: true });
  assert.deepEqual(rig.got.map(({ key, value, isDeleted }) => [key, value, isDeleted]), [
    ["a", { lat: 1 }, false], ["b", { lat: 2 }, false], ["a", { lat: 5 }, false], ["b", null, true],
  ]);
  assert.deepEqual(rig.got[1].tags, { source: "gps" });
  assert.deepEqual([...subscription.keys], ["a"]);
  assert.deepEqual(subscription.position, { epoch: EPOCH, offset: 14 });
  assert.equal(subscription.resyncs, 0);
  // A base that is not the key's own is not guessed at, and a hole after the mark is one.
  rig.receive({ type: "publication", number: 7, offset: 15, base: 13, delta: "json-patch", key: "c", data: [] });
  assert.deepEqual(rig.sent("subscribe").at(-1).position, { epoch: EPOCH, offset: 14 });
});

test("a gap on a keyed channel empties what is held", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("fleet");
  rig.subscribed({ kind: "keyed", position: { epoch: EPOCH, offset: 2 } });
  rig.full(1, 1, { key: "a" });
  rig.full(2, 2, { key: "b" });
  rig.receive({ type: "caught_up", number: 7, epoch: EPOCH, offset: 2 });
  rig.receive({ type: "gap", number: 7, reason: "history_trimmed", missed: { from: 3, to: 9 }, epoch: EPOCH });
  rig.full(2, 2, { key: "b" });
  rig.full(8, 3, { key: "c" });
  rig.receive({ type: "caught_up", number: 7, epoch: EPOCH, offset: 9 });
  assert.deepEqual([...subscription.keys], ["b", "c"]);
  rig.full(11, 4, { key: "c" });
  assert.equal(rig.sent("subscribe").length, 2, "a hole");
});

test("VCDIFF applies to the exact bytes of the base", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["vcdiff"] });
  rig.subscribed({ delta: "vcdiff" });
  rig.full(1, '{"v": 1.0}', { encoding: "utf-8" });
  // COPY 6 from 0, ADD "2.0}".
  const delta = Buffer.from([0xd6, 0xc3, 0xc4, 0, 0, 1, 10, 0, 12, 10, 0, 4, 2, 1, 50, 46, 48, 125, 22, 5, 0]);
  rig.delta(2, 1, "vcdiff", delta.toString("base64"));
  assert.deepEqual(rig.values, [{ v: 1 }, { v: 2 }]);
  assert.equal(new TextDecoder().decode(rig.client.subscriptions.get("bus:1430").bytes), '{"v": 2.0}');
});

test("a delta to another base is never applied: what follows the position is asked for, whole", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["json-patch"] });
  rig.subscribed({ delta: "json-patch" });
  rig.full(4, { lat: 1 });
  rig.delta(5, 3, "json-patch", [{ op: "replace", path: "/lat", value: 7 }]);
  assert.deepEqual(rig.values, [{ lat: 1 }]);
  assert.deepEqual(rig.socket.sent.slice(-2).map(({ type }) => type), ["unsubscribe", "subscribe"]);
  assert.deepEqual(rig.sent("subscribe").at(-1).position, { epoch: EPOCH, offset: 4 });
  rig.full(6, { lat: 8 }); // the tail of the subscription that was given up
  assert.equal(rig.got.length, 1);
  rig.subscribed({ delta: "json-patch", position: { epoch: EPOCH, offset: 6 }, recovered: true });
  rig.full(5, { lat: 7 });
  rig.full(6, { lat: 8 });
  assert.deepEqual(rig.values, [{ lat: 1 }, { lat: 7 }, { lat: 8 }]);
});

test("deltas that fit three times not are given up", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["vcdiff"] });
  for (let round = 0; round < 3; round++) {
    rig.subscribed({ delta: "vcdiff", recovered: round > 0 ? true : null });
    rig.full(round + 1, "{}", { encoding: "utf-8" });
    rig.delta(round + 2, round + 1, "vcdiff", Buffer.from("rubbish").toString("base64"));
  }
  assert.equal(rig.sent("subscribe").at(-1).delta, undefined);
});

test("it comes back with its position, and goes on from there", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["json-patch"] });
  rig.subscribed({ delta: "json-patch" });
  rig.full(4, { lat: 1 });
  rig.socket.onclose({ code: 1006, reason: "" });
  assert.equal(rig.client.state, "waiting");
  rig.timers.pass(60_000);
  assert.equal(rig.sockets.length, 2);
  rig.connect();
  const command = rig.subscribed({ delta: "json-patch", position: { epoch: EPOCH, offset: 5 }, recovered: true });
  assert.deepEqual(command.position, { epoch: EPOCH, offset: 4 });
  rig.full(5, { lat: 2 });
  assert.deepEqual(rig.values, [{ lat: 1 }, { lat: 2 }]);
  assert.equal(rig.got.at(-1).isSnapshot, true, "what was missed while away says nothing of latency");
});

test("where it was not recovered, nothing of before is kept", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("bus:1430", { delta: ["json-patch"] });
  rig.subscribed({ delta: "json-patch" });
  rig.full(4, { lat: 1 });
  rig.socket.onclose({ code: 4001, reason: "slow_consumer" });
  rig.timers.pass(60_000);
  rig.connect();
  rig.subscribed({ delta: "json-patch", recovered: false });
  assert.equal(subscription.gaps, 1);
  rig.delta(5, 4, "json-patch", []);
  assert.deepEqual(rig.values, [{ lat: 1 }], "its base is gone");
});

test("a gap drops the base; the full value after it is taken, of another epoch too", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("bus:1430");
  rig.subscribed();
  rig.full(40, 1);
  rig.receive({ type: "gap", number: 7, reason: "epoch_changed", missed: null, epoch: "BBECAwQFBgcICQoL" });
  assert.deepEqual(subscription.position, { epoch: EPOCH, offset: 40 }, "the last one told, to come back with");
  rig.full(2, 2, { epoch: "BBECAwQFBgcICQoL" });
  assert.deepEqual(rig.values, [1, 2]);
  assert.deepEqual(subscription.position, { epoch: "BBECAwQFBgcICQoL", offset: 2 });
});

test("a publication that it has is not told twice", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430");
  rig.subscribed();
  rig.full(4, "a");
  rig.full(4, "a");
  rig.full(3, "old");
  assert.deepEqual(rig.values, ["a"]);
});

test("retries double, are jittered, and are bounded", () => {
  for (const [random, share] of [[0, 0.5], [1, 1]]) {
    const rig = new Rig({ random: () => random });
    rig.client.open();
    const delays = [];
    for (let attempt = 0; attempt < 9; attempt++) {
      rig.socket.onclose({ code: 1006, reason: "" });
      delays.push([...rig.timers.pending.values()].at(-1).delayMs);
      rig.timers.pass(60_000);
    }
    assert.deepEqual(delays, [300, 600, 1200, 2400, 4800, 9600, 15000, 15000, 15000].map((ms) => ms * share));
  }
});

test("it waits as long as a drain says", () => {
  const rig = new Rig().connect();
  rig.receive({ type: "drain", reconnect_after_ms: 5000 });
  rig.socket.onclose({ code: 1001, reason: "going away" });
  const { delayMs } = [...rig.timers.pending.values()].at(-1);
  assert.ok(delayMs > 4500 && delayMs < 6000, String(delayMs));
});

test("it does not come back where the edge says so", () => {
  for (const code of [1003, 1007, 1009, 4100, 4101, 4199]) {
    const rig = new Rig().connect();
    rig.socket.onclose({ code, reason: "no" });
    assert.equal(rig.client.state, "stopped");
    assert.equal(rig.timers.pending.size, 0);
  }
});

test("a refused subscription is tried again where that may help, and not otherwise", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("bus:1430");
  rig.receive({ type: "error", id: rig.sent("subscribe")[0].id, code: "rate_limited", message: "slow down", retry: true, channel: "bus:1430" });
  rig.timers.pass(5_000);
  assert.equal(rig.sent("subscribe").length, 2);
  rig.receive({ type: "error", id: rig.sent("subscribe")[1].id, code: "bad_channel", message: "no", retry: false, channel: "bus:1430" });
  assert.equal(subscription.state, "failed");
  rig.timers.pass(5_000);
  assert.equal(rig.sent("subscribe").length, 2);
});

test("a subscription that the edge ends is asked for again where it says so", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430");
  rig.subscribed();
  rig.receive({ type: "unsubscribed", channel: "bus:1430", code: "unavailable", message: "later", retry: true });
  rig.timers.pass(5_000);
  assert.equal(rig.sent("subscribe").length, 2);
});

test("what arrives for a subscription that was ended is ignored", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430");
  rig.subscribed();
  rig.client.unsubscribe("bus:1430");
  rig.full(4, "late");
  assert.deepEqual(rig.values, []);
  assert.equal(rig.sent("unsubscribe").length, 1);
  // Ended and wanted again before the edge answered: the first answer is not the second's.
  rig.subscribe("bus:1430");
  const first = rig.sent("subscribe").at(-1);
  rig.subscribe("bus:1430");
  rig.receive({ type: "subscribed", id: first.id, channel: "bus:1430", number: 7, kind: "latest", delta: null, position: null, recovered: null });
  rig.full(5, "of the first");
  assert.deepEqual(rig.values, []);
  rig.subscribed();
  rig.full(6, "of the second");
  assert.deepEqual(rig.values, ["of the second"]);
});

test("a silent connection is asked, then given up", () => {
  const rig = new Rig().connect();
  const first = rig.socket;
  rig.timers.pass(16_000);
  assert.equal(rig.sent("ping").length, 1);
  rig.receive({ type: "pong", id: rig.sent("ping")[0].id });
  rig.timers.pass(16_000);
  rig.timers.pass(11_000);
  assert.equal(first.closedWith, 4002);
  assert.equal(rig.client.state, "waiting");
});

test("a mode, a rate and a window are asked for where they are wanted", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1", { mode: "conflate", maxRate: 2 });
  rig.subscribe("bus:2", { mode: "ack", window: 8 });
  rig.subscribe("bus:3");
  assert.deepEqual(
    rig.sent("subscribe").map(({ mode, max_rate, window }) => [mode, max_rate, window]),
    [["conflate", 2, undefined], ["ack", undefined, 8], [undefined, undefined, undefined]],
  );
});

test("in mode ack it acknowledges what it told, half a window at a time", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1", { mode: "ack" });
  rig.subscribed({ mode: "ack", window: 4, kind: "stream", position: { epoch: EPOCH, offset: 0 } });
  for (const offset of [1, 2, 3]) rig.full(offset, offset);
  assert.deepEqual(rig.sent("ack"), [{ type: "ack", number: 7, epoch: EPOCH, offset: 2 }]);
  rig.full(4, 4);
  assert.equal(rig.sent("ack").at(-1).offset, 4);
});

test("one who unsubscribes while it is told acknowledges nothing", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1", { mode: "ack", onPublication: () => rig.client.unsubscribe("bus:1") });
  rig.subscribed({ mode: "ack", window: 1 });
  rig.full(1, 1);
  assert.deepEqual(rig.sent("ack"), []);
});

test("in other modes nothing is acknowledged", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1", { mode: "conflate" });
  rig.subscribed({ mode: "conflate" });
  rig.full(1, 1);
  rig.full(5, 5);
  assert.deepEqual(rig.values, [1, 5]);
  assert.deepEqual(rig.sent("ack"), []);
});

test("frames that it does not know change nothing", () => {
  const rig = new Rig().connect();
  rig.receive({ type: "weather", id: 3 });
  rig.receive({ type: "publication", number: 99, epoch: EPOCH, offset: 1, data: 1 });
  assert.equal(rig.client.state, "connected");
});

test("a frame that it cannot read costs the connection, and nothing else", () => {
  const rig = new Rig().connect();
  rig.subscribe("bus:1430");
  rig.subscribed();
  rig.full(4, "a");
  const { socket } = rig;
  socket.onmessage({ data: "{" });
  assert.equal(socket.closedWith, 1000);
  assert.equal(rig.client.state, "waiting");
  rig.timers.pass(60_000);
  rig.connect();
  assert.deepEqual(rig.sent("subscribe")[0].position, { epoch: EPOCH, offset: 4 });
});

test("an edge that sends nothing that can be read is asked less and less often", () => {
  const rig = new Rig({ random: () => 1 });
  const delays = [];
  for (let attempt = 0; attempt < 4; attempt++) {
    rig.connect().socket.onmessage({ data: "{" });
    delays.push([...rig.timers.pending.values()].at(-1).delayMs);
    rig.timers.pass(60_000);
  }
  assert.deepEqual(delays, [300, 600, 1200, 2400]);
});

test("after 4003 it waits for 5 s at least", () => {
  const rig = new Rig({ random: () => 0 }).connect();
  rig.socket.onclose({ code: 4003, reason: "try_again" });
  assert.equal([...rig.timers.pending.values()].at(-1).delayMs, 5000);
});

test("a channel without publications is resumed from its beginning", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("bus:1430");
  assert.equal(rig.subscribed({ kind: null, position: null }).position, undefined);
  rig.socket.onclose({ code: 1006, reason: "" });
  rig.timers.pass(60_000);
  rig.connect();
  const command = rig.subscribed({ kind: "stream", position: { epoch: EPOCH, offset: 2 }, recovered: true });
  assert.deepEqual(command.position, { epoch: null, offset: 0 });
  rig.full(1, "a");
  rig.full(2, "b");
  assert.deepEqual(rig.values, ["a", "b"]);
  assert.equal(subscription.gaps, 0);
});

test("a payload that is not what it is said to be is told as a problem, and the next one is taken", () => {
  const rig = new Rig().connect();
  const subscription = rig.subscribe("bus:1430");
  rig.subscribed();
  rig.full(1, "{no", { encoding: "utf-8" });
  assert.match(subscription.problem, /offset 1 is not application\/json/);
  rig.full(2, "[2]", { encoding: "utf-8" });
  assert.deepEqual(rig.values, [[2]]);
  assert.equal(rig.sent("unsubscribe").length, 0);
});

test("bytes are those on the wire, and those of a full frame", () => {
  assert.equal(utf8Length("aé€😀"), Buffer.byteLength("aé€😀"));
  assert.deepEqual([125, 126, 65_535, 65_536].map((size) => webSocketBytes(size) - size), [2, 4, 4, 10]);
  const rig = new Rig().connect();
  rig.subscribe("bus:1430", { delta: ["vcdiff"] });
  rig.subscribed({ delta: "vcdiff" });
  const payload = JSON.stringify({ name: "x".repeat(300) });
  rig.full(1, payload, { encoding: "utf-8" });
  const asFull = JSON.stringify({ type: "publication", number: 7, epoch: EPOCH, offset: 1, time: 1000, data: JSON.parse(payload) });
  assert.equal(rig.got[0].fullWireBytes, webSocketBytes(asFull.length));
  const sent = JSON.stringify({ type: "publication", number: 7, epoch: EPOCH, offset: 1, time: 1000, data: payload, encoding: "utf-8" });
  assert.equal(rig.got[0].wireBytes, webSocketBytes(sent.length));
});

test("counts add up, and a median is one", () => {
  const stats = new Stats();
  stats.count({ channel: "a", wireBytes: 30, fullWireBytes: 100, isDelta: true });
  stats.count({ channel: "b", wireBytes: 100, fullWireBytes: 100, isDelta: false });
  assert.equal(stats.meter("a").saving, 0.7);
  assert.equal(stats.total.saving, 0.35);
  assert.equal(stats.meter("never").saving, null);
  const latency = new Latency();
  assert.equal(latency.p50, null);
  for (const ms of [5, 1, 9, 2, 3]) latency.add(ms);
  assert.deepEqual([latency.p50, latency.last], [3, 3]);
});

test("MessagePack frames say the same as JSON frames", () => {
  const pairs = [
    [[0, 7, 12, EPOCH, 1_700_000_000_000, null, 0, Buffer.from('{"lat":1}')], { number: 7, epoch: EPOCH, offset: 12, time: 1_700_000_000_000, encoding: "utf-8", data: '{"lat":1}' }],
    [[1, 300, 13, 12, null, null, 0, Buffer.from([1, 2, 255])], { number: 300, offset: 13, base: 12, delta: "vcdiff", encoding: "base64", data: "AQL/" }],
    [[2, 7, 14, 13, 5, "k", 0, Buffer.from('[{"op":"remove","path":"/a"}]')], { number: 7, offset: 14, base: 13, delta: "json-patch", time: 5, key: "k", data: [{ op: "remove", path: "/a" }] }],
    [[0, 7, 15, EPOCH, 5, null, 2, Buffer.from([0, 128])], { number: 7, epoch: EPOCH, offset: 15, time: 5, content_type: "application/octet-stream", encoding: "base64", data: "AIA=" }],
  ];
  for (const [array, object] of pairs) {
    const packed = encodeFrame(array.map((item) => (Buffer.isBuffer(item) ? new Uint8Array(item) : item)), "msgpack");
    const plain = decodeFrame(JSON.stringify({ type: "publication", ...object }));
    const fromArray = decodeFrame(packed.buffer.slice(packed.byteOffset, packed.byteOffset + packed.byteLength));
    // By way of JSON: a member that is undefined is one that is not there.
    const shown = (frame) => JSON.parse(JSON.stringify({ ...frame, bytes: frame.bytes && [...frame.bytes] }));
    assert.deepEqual(shown(fromArray), shown(plain));
  }
});

test("a full MessagePack frame has the size that is told", () => {
  for (const size of [3, 255, 256, 70_000]) {
    const payload = new Uint8Array(size);
    const frame = encodeFrame([0, 7, 12, EPOCH, 1_700_000_000_000, null, 0, payload], "msgpack");
    const publication = { number: 7, offset: 12, timeMs: 1_700_000_000_000, contentType: "application/json" };
    assert.equal(fullWireBytes(publication, EPOCH, size, "msgpack"), webSocketBytes(frame.length));
  }
});

// The project's test vectors (tests/vectors/README.md). Left out is what this client does not offer: the bare protocol, positions and
// rewinds and delivery modes of the application's own, and telling an application of gaps.
const isOffered = ({ bare, steps }) =>
  !bare && !steps.some((step) => step.do === "ack" || (step.do === "subscribe" && (step.position || step.rewind || step.mode)));

function play(session, format) {
  const timers = new Timers();
  const sent = [];
  const seen = [];
  let socket;
  const client = new Client("ws://edge/v1/ws", {
    format,
    timers,
    socket: () => (socket = { send: (data) => sent.push(typeof data === "string" ? JSON.parse(data) : msgpack.decode(data)), close() {} }),
  });
  for (const step of session.steps) {
    sent.length = seen.length = 0;
    if (step.do === "connect") {
      if (client.state === "waiting") timers.pass(60_000);
      else client.open();
      socket.onopen({});
    } else if (step.do === "subscribe") {
      client.subscribe(step.channel, { delta: step.delta, onPublication: ({ channel, position, value, isDelta }) => seen.push({ channel, ...position, data: value, is_delta: isDelta }) });
    } else if (step.do === "unsubscribe") client.unsubscribe(step.channel);
    else if (step.do === "lose") socket.onclose({ code: 1006, reason: "" });
    else socket.onmessage({ data: step.text ?? Uint8Array.from(Buffer.from(step.hex, "hex")).buffer });
    const where = `${session.name}: ${JSON.stringify(step)}`;
    assert.deepEqual(sent.map(({ client: _name, ...frame }) => frame), step.sends ?? [], where);
    const isGivenUp = (step.sees ?? []).some((item) => item.error === "protocol");
    if (step.do === "receive") assert.equal(client.state, isGivenUp ? "waiting" : "connected", where);
    const expected = (step.sees ?? []).filter((item) => item.publication).map(({ publication }) => publication);
    const shown = seen.map(({ data, ...rest }) => (data === null ? { ...rest, payload: null } : data instanceof Uint8Array ? { ...rest, payload: Buffer.from(data).toString("hex") } : { ...rest, data }));
    const wanted = expected.map(({ channel, epoch, offset, data, is_delta, payload }) => ({ channel, epoch, offset, is_delta, ...(data === undefined ? { payload } : { data }) }));
    assert.deepEqual(shown, wanted, where);
  }
}

for (const format of ["json", "msgpack"]) {
  const { sessions } = JSON.parse(readFileSync(new URL(`./sessions_${format}.json`, import.meta.url)));
  for (const session of sessions.filter(isOffered)) test(`${format} session: ${session.name}`, () => play(session, format));
}

test("of a GTFS-realtime feed the vehicles are known, by the names of their channels, and nothing else", () => {
  const fleet = new Fleet();
  const at = { latitude: 41.7, longitude: -72.6 };
  fleet.learn([
    { id: "1", vehicle: { trip: { trip_id: "T1", route_id: "R" }, vehicle: { id: "bus-7" }, position: at } },
    { id: "2", vehicle: { trip: { trip_id: "T2", start_date: "20251009" }, position: at } },
    { id: "3", trip_update: { trip: { trip_id: "T1" } } },
    { id: "4", alert: {} },
    { id: "5", vehicle: { position: at, timestamp: 1 } },
  ], 0);
  assert.deepEqual(fleet.ids, ["20251009/T2", "bus-7"]);
  assert.equal(fleet.vehicles.get("bus-7").details, "vehicle");
  fleet.learn([{ id: "1430", vehicle: { trip: { tripId: "T" }, vehicle: { id: "hardware" }, position: at, timestamp: "1" } }], 0);
  assert.equal(fleet.vehicles.get("1430").details, "bus");
  assert.deepEqual(fleet.routes, ["R"]);
});
