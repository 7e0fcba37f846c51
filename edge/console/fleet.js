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
    if (typeof item !== "object" || item === null || item.id === undefined) return null;
    const id = String(item.id);
    const lat = item.lat ?? item.vehicle?.position?.latitude;
    const long = item.long ?? item.vehicle?.position?.longitude;
    let vehicle = this.vehicles.get(id);
    if (!vehicle) this.vehicles.set(id, (vehicle = new Vehicle(id)));
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
