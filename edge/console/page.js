// The live page: which channels are subscribed to, the map, and the numbers.

import { Client } from "./client.js";
import { Fleet } from "./fleet.js";
import * as format from "./format.js";
import { CityMap } from "./map.js";
import { Stats } from "./stats.js";

const NUMBERS_EVERY_MS = 500;
const DISCOVER_EVERY_MS = 60_000;
const FEED = "feed";
const NEWEST_A_SECOND = 1; // in mode conflate

const element = (id) => document.getElementById(id);
const fleet = new Fleet();
const stats = new Stats();
const map = new CityMap(element("map"), fleet);
const rows = new Map(); // channel -> {row, cells}
const choice = { scope: "all", vehicle: null, delta: ["vcdiff"], mode: "queue" };
let wanted = new Set();
let unseen = []; // publications that the screen does not show yet
let isDrawing = false;

const client = new Client(socketUrl(), { onState: showConnection });

// For tests and for the curious, in the browser's console.
window.distributary = { vehicles: fleet.vehicles, stats, client, choice };

function socketUrl() {
  const url = new URL("/v1/ws", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

// --- Channels -------------------------------------------------------------------------------------------------------

function wantedChannels() {
  if (choice.scope === "feed") return [FEED];
  if (choice.scope === "one") return choice.vehicle ? [`${fleet.vehicles.get(choice.vehicle)?.details ?? "bus"}:${choice.vehicle}`, `position:${choice.vehicle}`] : [];
  return fleet.ids.map((id) => `position:${id}`);
}

function delivery() {
  return { delta: choice.delta, mode: choice.mode, maxRate: choice.mode === "conflate" ? NEWEST_A_SECOND : null };
}

// Subscribe to what the choice asks for, and to nothing else.
function follow() {
  const channels = wantedChannels();
  stats.reset(); // the totals are those of the channels that are shown
  wanted = new Set(channels);
  for (const channel of [...client.subscriptions.keys()]) {
    if (!wanted.has(channel)) client.unsubscribe(channel);
  }
  for (const channel of channels) {
    if (!client.subscriptions.has(channel)) client.subscribe(channel, { ...delivery(), onPublication: take });
  }
  for (const [channel, { row }] of rows) {
    if (wanted.has(channel)) continue;
    row.remove();
    rows.delete(channel);
  }
  unseen = [];
  discover();
  showNumbers();
  drawSoon();
}

function startAnew() {
  for (const channel of [...client.subscriptions.keys()]) client.unsubscribe(channel);
  follow();
}

// Learn which vehicles there are: one look at the feed.
function discover() {
  if (client.subscriptions.has(FEED)) return;
  client.subscribe(FEED, {
    onPublication: ({ value }) => {
      client.unsubscribe(FEED);
      learn(value);
      if (choice.scope === "all") followNew();
    },
  });
}

function followNew() {
  if (fleet.ids.some((id) => !wanted.has(`position:${id}`))) {
    const isFirst = wanted.size === 0;
    const channels = wantedChannels().filter((channel) => !wanted.has(channel));
    for (const channel of channels) {
      wanted.add(channel);
      client.subscribe(channel, { ...delivery(), onPublication: take });
    }
    if (isFirst) showNumbers();
  }
}

function take(publication) {
  stats.count(publication);
  if (publication.isDeleted) {
    fleet.forget(publication.key);
    listVehicles();
    drawSoon();
  } else learn(publication.value, publication.key);
  unseen.push(publication);
}

function learn(value, key) {
  const before = fleet.vehicles.size;
  map.moved(fleet.learn(value, performance.now(), key));
  if (fleet.vehicles.size !== before) listVehicles();
  drawSoon();
}

// --- Drawing --------------------------------------------------------------------------------------------------------

function drawSoon() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  isDrawing = false;
  const isMoving = map.draw(performance.now());
  const nowMs = Date.now();
  for (const { channel, timeMs, isSnapshot } of unseen) {
    if (!isSnapshot && timeMs !== undefined && wanted.has(channel)) stats.addLatency(channel, nowMs - timeMs);
  }
  unseen = [];
  if (isMoving) drawSoon();
}

map.live = (vehicle) => choice.scope !== "one" || vehicle.id === choice.vehicle;

// --- What is shown in words -----------------------------------------------------------------------------------------

function showConnection({ state, detail, session }) {
  const text = { connected: `connected${session ? `, session ${session}` : ""}`, connecting: "connecting …", waiting: `trying again: ${detail}`, stopped: `stopped: ${detail}`, closed: "closed" }[state];
  element("connection").dataset.state = state;
  write(element("connection-text"), text);
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function showNumbers() {
  const { total } = stats;
  write(element("total-received"), format.bytes(total.received));
  write(element("total-full"), format.bytes(total.full));
  write(element("total-saving"), format.share(total.saving));
  write(element("total-publications"), format.integer(total.publications));
  write(element("total-latency"), format.milliseconds(total.latency.p50));
  for (const channel of wanted) showChannel(channel);
  const count = fleet.vehicles.size;
  write(element("vehicle-count"), count ? `${count} known` : "");
  element("hint").hidden = count > 0;
  element("map").setAttribute("aria-label", count ? `${count} vehicles on a schematic map` : "No vehicles yet");
  showChosen();
}

function showChannel(channel) {
  const subscription = client.subscriptions.get(channel);
  if (!subscription) return;
  const { row, cells } = rowOf(channel);
  const meter = stats.meter(channel);
  const { position, state, problem, delta, gaps, kind, keys } = subscription;
  const { latency } = meter;
  row.dataset.state = state;
  const texts = state === "failed"
    ? [problem, "", "", "", "", ""]
    : [
      position ? format.integer(position.offset) : "–",
      format.integer(meter.publications),
      format.bytes(meter.received),
      format.bytes(meter.full),
      format.share(meter.saving),
      latency.last === null ? "–" : `${format.milliseconds(latency.p50)}, ${format.milliseconds(latency.last)}`,
    ];
  texts.forEach((text, index) => write(cells[index], text));
  const title = position ? `epoch ${position.epoch ?? "none"}, deltas ${delta ?? "none"}, gaps ${gaps}${kind === "keyed" ? `, keys ${keys.size}` : ""}` : "";
  if (cells[0].title !== title) cells[0].title = title;
}

function rowOf(channel) {
  let entry = rows.get(channel);
  if (entry) return entry;
  const row = document.createElement("tr");
  const heading = document.createElement("th");
  heading.scope = "row";
  const id = channel.includes(":") ? channel.slice(channel.indexOf(":") + 1) : null;
  if (id) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = channel;
    button.title = `Show only vehicle ${id}`;
    button.addEventListener("click", () => pickVehicle(id));
    heading.append(button);
  } else {
    heading.append(channel);
  }
  row.append(heading);
  const cells = Array.from({ length: 6 }, () => row.appendChild(document.createElement("td")));
  element("channels").append(row);
  entry = { row, cells };
  rows.set(channel, entry);
  return entry;
}

function showChosen() {
  const about = element("about");
  const vehicle = choice.scope === "one" ? fleet.vehicles.get(choice.vehicle) : null;
  about.hidden = !vehicle;
  if (!vehicle) return;
  const place = vehicle.lat === null ? "no position yet" : `${vehicle.lat.toFixed(5)}, ${vehicle.long.toFixed(5)}`;
  write(about, `Vehicle ${vehicle.id}${vehicle.route ? `, route ${vehicle.route}` : ""}\n${place}`);
}

function listVehicles() {
  const text = element("search").value.trim().toLowerCase();
  const items = fleet.ids.filter((id) => id.toLowerCase().includes(text)).map((id) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = id;
    button.dataset.vehicle = id;
    button.setAttribute("aria-pressed", String(choice.scope === "one" && choice.vehicle === id));
    item.append(button);
    return item;
  });
  element("vehicles").replaceChildren(...items);
}

// --- Choices --------------------------------------------------------------------------------------------------------

function pickVehicle(id) {
  if (id === null) return; // no vehicle is known yet
  choice.scope = "one";
  choice.vehicle = id;
  element("scope-one").textContent = `Vehicle ${id}`;
  document.querySelector('input[name="scope"][value="one"]').checked = true;
  map.selected = id;
  markPressed();
  follow();
}

function markPressed() {
  for (const button of element("vehicles").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(choice.scope === "one" && button.dataset.vehicle === choice.vehicle));
  }
}

for (const radio of document.querySelectorAll('input[name="scope"]')) {
  radio.addEventListener("change", () => {
    if (radio.value === "one") {
      pickVehicle(choice.vehicle ?? fleet.ids[0] ?? null);
      return;
    }
    choice.scope = radio.value;
    map.selected = null;
    markPressed();
    follow();
  });
}

for (const radio of document.querySelectorAll('input[name="delta"]')) {
  radio.addEventListener("change", () => {
    choice.delta = radio.value === "none" ? [] : [radio.value];
    startAnew();
  });
}

for (const radio of document.querySelectorAll('input[name="mode"]')) {
  radio.addEventListener("change", () => {
    choice.mode = radio.value;
    startAnew();
  });
}

for (const radio of document.querySelectorAll('input[name="format"]')) {
  radio.addEventListener("change", () => {
    client.close();
    client.format = radio.value;
    startAnew();
    client.open();
  });
}

element("search").addEventListener("input", listVehicles);
element("search").addEventListener("keydown", (event) => {
  const first = element("vehicles").querySelector("button");
  if (event.key === "Enter" && first) pickVehicle(first.dataset.vehicle);
});
element("vehicles").addEventListener("click", (event) => {
  const id = event.target.closest("button")?.dataset.vehicle;
  if (id) pickVehicle(id);
});
element("map").addEventListener("click", (event) => {
  const vehicle = map.pick(event.offsetX, event.offsetY, performance.now());
  if (vehicle) pickVehicle(vehicle.id);
});

new ResizeObserver(() => {
  map.resize();
  drawSoon();
}).observe(element("map"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  map.readColours();
  map.fit();
  drawSoon();
});
// A hidden page draws nothing: what arrived meanwhile is shown late, and says nothing of latency.
document.addEventListener("visibilitychange", () => {
  unseen = [];
});

follow();
client.open();
setInterval(showNumbers, NUMBERS_EVERY_MS);
setInterval(() => choice.scope === "all" && discover(), DISCOVER_EVERY_MS);
