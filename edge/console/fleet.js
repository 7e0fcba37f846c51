// What is known of the vehicles, from whichever channel it came.

const MAX_TRAIL = 400;

export class Vehicle {
  constructor(id) {
    this.id = id;
    this.route = null;
    this.lat = null;
    this.long = null;
    this.from = null; // where it was drawn when it last moved
    this.movedAtMs = 0;
    this.trail = []; // [lat, long], oldest first
    this.moves = 0;
    this.details = "bus"; // the namespace of the channel that has all of it
  }
}

export class Fleet {
  constructor() {
    this.vehicles = new Map();
  }

  // Learn from the value of a publication: a feed's array, one of its items, or a {id, lat, long}, whose id may be the publication's key.
  // Returns the vehicles that it names.
  learn(value, nowMs, key) {
    const items = Array.isArray(value) ? value : [key === undefined || typeof value !== "object" || value === null ? value : { id: key, ...value }];
    return items.map((item) => this._learnOne(item, nowMs)).filter(Boolean);
  }

  _learnOne(item, nowMs) {
    if (typeof item !== "object" || item === null) return null;
    const isRealtime = isOfRealtimeFeed(item);
    const named = isRealtime ? realtimeId(item.vehicle) : item.id;
    if (named === undefined || named === null) return null;
    const id = String(named);
    const lat = item.lat ?? item.vehicle?.position?.latitude;
    const long = item.long ?? item.vehicle?.position?.longitude;
    let vehicle = this.vehicles.get(id);
    if (!vehicle) this.vehicles.set(id, (vehicle = new Vehicle(id)));
    if (isRealtime) vehicle.details = "vehicle";
    vehicle.route = item.vehicle?.trip?.routeId ?? item.vehicle?.trip?.route_id ?? vehicle.route;
    if (Number.isFinite(lat) && Number.isFinite(long)) move(vehicle, lat, long, nowMs);
    return vehicle;
  }

  // A vehicle's key was deleted.
  forget(key) {
    this.vehicles.delete(key);
  }

  get ids() {
    return [...this.vehicles.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  }

  get routes() {
    return [...new Set([...this.vehicles.values()].map((vehicle) => vehicle.route).filter(Boolean))].sort();
  }
}

// An entity of GTFS-realtime, as Protobuf has it, and not of the JSON that the demo sends.
function isOfRealtimeFeed(item) {
  if ("trip_update" in item || "alert" in item) return true;
  const { vehicle } = item;
  return typeof vehicle === "object" && vehicle !== null && (vehicle.trip?.trip_id !== undefined || typeof vehicle.timestamp === "number");
}

// As examples/gtfs-realtime.yaml names its channels. Trips and alerts are no vehicles.
function realtimeId(vehicle) {
  if (!vehicle) return null;
  return vehicle.vehicle?.id || (vehicle.trip?.trip_id ? `${vehicle.trip.start_date || "-"}/${vehicle.trip.trip_id}` : null);
}

function move(vehicle, lat, long, nowMs) {
  if (lat === vehicle.lat && long === vehicle.long) return;
  vehicle.from = vehicle.lat === null ? null : { lat: vehicle.lat, long: vehicle.long };
  if (vehicle.lat !== null) vehicle.moves += 1;
  vehicle.lat = lat;
  vehicle.long = long;
  vehicle.movedAtMs = nowMs;
  vehicle.trail.push([lat, long]);
  if (vehicle.trail.length > MAX_TRAIL) vehicle.trail.shift();
}
