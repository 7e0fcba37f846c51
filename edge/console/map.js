// A schematic map on a canvas: no tiles, only what the vehicles themselves have drawn. Fitted to where they have been.

const PADDING = 34;
const GLIDE_MS = 900;
const TRAIL_BANDS = [[24, 0.22], [12, 0.4], [5, 0.75]]; // the newest so many points, opacity
// A longer step is a jump (a replay that starts again), not a street.
const LONGEST_STEP_DEGREES = 0.02;
const PICK_RADIUS = 16;
const MIN_SPAN_DEGREES = 0.01;
const LABEL_WIDTH = 70;

export class CityMap {
  constructor(canvas, fleet) {
    this.canvas = canvas;
    this.fleet = fleet;
    this.selected = null;
    this.live = () => true; // whether a vehicle is subscribed to
    this.context = canvas.getContext("2d");
    this.worn = document.createElement("canvas"); // the streets driven so far; drawn upon, not redrawn
    this.wornContext = this.worn.getContext("2d");
    this.bounds = null;
    this.isGliding = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.resize();
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const { clientWidth: width, clientHeight: height } = this.canvas;
    for (const canvas of [this.canvas, this.worn]) {
      canvas.width = Math.max(1, Math.round(width * ratio));
      canvas.height = Math.max(1, Math.round(height * ratio));
    }
    this.width = width;
    this.height = height;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.wornContext.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.readColours();
    this.fit();
  }

  readColours() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.colours = { ground: colour("--map-ground"), line: colour("--map-line"), ink: colour("--map-ink"), strong: colour("--ink"), accent: colour("--accent"), panel: colour("--panel") };
    this.isDark = matchMedia("(prefers-color-scheme: dark)").matches;
    this.fonts = `11px ${getComputedStyle(document.body).fontFamily}`;
    this.routes = [];
  }

  routeColour(route) {
    const index = this.routes.indexOf(route);
    if (index < 0) return this.colours.accent;
    // Neighbours in the list are far apart on the wheel.
    const hue = (index * 150 + 190) % 360;
    return this.isDark ? `hsl(${hue} 55% 66%)` : `hsl(${hue} 58% 40%)`;
  }

  // Take in vehicles that moved: draw their streets, widen the bounds where they left them.
  moved(vehicles) {
    const routes = this.fleet.routes;
    const isRepainted = routes.length !== this.routes.length;
    if (isRepainted) this.routes = routes;
    if (isRepainted || vehicles.some((vehicle) => !this._holds(vehicle))) {
      this.fit();
      return;
    }
    for (const vehicle of vehicles) this._wear(vehicle, vehicle.trail.slice(-2));
  }

  fit() {
    let [south, north, west, east] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const { trail } of this.fleet.vehicles.values()) {
      for (const [lat, long] of trail) {
        south = Math.min(south, lat);
        north = Math.max(north, lat);
        west = Math.min(west, long);
        east = Math.max(east, long);
      }
    }
    if (south > north) return;
    const spare = Math.max(MIN_SPAN_DEGREES, north - south, east - west) * 0.02;
    this.bounds = { south: south - spare, north: north + spare, west: west - spare, east: east + spare };
    const middle = (south + north) / 2;
    this.squeeze = Math.cos((middle * Math.PI) / 180);
    const { bounds } = this;
    this.scale = Math.min(
      (this.width - 2 * PADDING) / ((bounds.east - bounds.west) * this.squeeze),
      (this.height - 2 * PADDING) / (bounds.north - bounds.south),
    );
    this.routes = this.fleet.routes;
    this.wornContext.clearRect(0, 0, this.width, this.height);
    for (const vehicle of this.fleet.vehicles.values()) this._wear(vehicle, vehicle.trail);
  }

  _holds({ lat, long }) {
    const { bounds } = this;
    return lat === null || (bounds && lat >= bounds.south && lat <= bounds.north && long >= bounds.west && long <= bounds.east);
  }

  _x(long) {
    const middle = (this.bounds.west + this.bounds.east) / 2;
    return this.width / 2 + (long - middle) * this.squeeze * this.scale;
  }

  _y(lat) {
    const middle = (this.bounds.south + this.bounds.north) / 2;
    return this.height / 2 - (lat - middle) * this.scale;
  }

  _wear(vehicle, points) {
    if (points.length < 2 || !this.bounds) return;
    const { wornContext: context } = this;
    context.globalAlpha = 0.2;
    context.lineWidth = 3;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.strokeStyle = this.routeColour(vehicle.route);
    this._trace(context, points);
    context.stroke();
  }

  _trace(context, points) {
    context.beginPath();
    let before = null;
    for (const point of points) {
      const isJump = !before || Math.hypot(point[0] - before[0], point[1] - before[1]) > LONGEST_STEP_DEGREES;
      context[isJump ? "moveTo" : "lineTo"](this._x(point[1]), this._y(point[0]));
      before = point;
    }
  }

  // Draw everything as of `nowMs`; returns whether something still glides.
  draw(nowMs) {
    const { context } = this;
    context.globalAlpha = 1;
    context.fillStyle = this.colours.ground;
    context.fillRect(0, 0, this.width, this.height);
    if (!this.bounds) return false;
    this._drawGrid();
    context.drawImage(this.worn, 0, 0, this.width, this.height);
    let isMoving = false;
    const vehicles = [...this.fleet.vehicles.values()].filter((vehicle) => vehicle.lat !== null);
    for (const vehicle of vehicles) this._drawTrail(vehicle);
    for (const vehicle of vehicles) isMoving = this._drawVehicle(vehicle, nowMs) || isMoving;
    const chosen = this.fleet.vehicles.get(this.selected);
    if (chosen && chosen.lat !== null) this._drawChosen(chosen, nowMs);
    context.globalAlpha = 1;
    return isMoving;
  }

  // Where a vehicle is drawn: on its way from the last position to the newest.
  _place(vehicle, nowMs) {
    const share = this.isGliding && vehicle.from ? Math.min(1, (nowMs - vehicle.movedAtMs) / GLIDE_MS) : 1;
    const { from } = vehicle;
    const isJump = from && Math.hypot(vehicle.lat - from.lat, vehicle.long - from.long) > LONGEST_STEP_DEGREES;
    if (share >= 1 || isJump) return { x: this._x(vehicle.long), y: this._y(vehicle.lat), isMoving: false };
    return {
      x: this._x(from.long + (vehicle.long - from.long) * share),
      y: this._y(from.lat + (vehicle.lat - from.lat) * share),
      isMoving: true,
    };
  }

  _drawTrail(vehicle) {
    const { context } = this;
    const strength = this.live(vehicle) ? 1 : 0.25;
    context.strokeStyle = this.routeColour(vehicle.route);
    context.lineWidth = 2;
    context.lineCap = "butt";
    // The newest step is still being driven: the vehicle itself shows it.
    const driven = this.isGliding ? vehicle.trail.slice(0, -1) : vehicle.trail;
    for (const [length, opacity] of TRAIL_BANDS) {
      context.globalAlpha = opacity * strength;
      this._trace(context, driven.slice(-length));
      context.stroke();
    }
  }

  _drawVehicle(vehicle, nowMs) {
    const { context } = this;
    const { x, y, isMoving } = this._place(vehicle, nowMs);
    context.globalAlpha = this.live(vehicle) ? 1 : 0.3;
    context.beginPath();
    context.arc(x, y, 4.2, 0, 2 * Math.PI);
    context.fillStyle = this.routeColour(vehicle.route);
    context.fill();
    context.lineWidth = 1.4;
    context.strokeStyle = this.colours.panel;
    context.stroke();
    return isMoving;
  }

  _drawChosen(vehicle, nowMs) {
    const { context } = this;
    const { x, y } = this._place(vehicle, nowMs);
    context.globalAlpha = 1;
    context.beginPath();
    context.arc(x, y, 9, 0, 2 * Math.PI);
    context.lineWidth = 2;
    context.strokeStyle = this.colours.strong;
    context.stroke();
    context.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = x > this.width - 70 ? "right" : "left";
    context.textBaseline = "middle";
    const beside = x + (context.textAlign === "left" ? 14 : -14);
    context.lineWidth = 4;
    context.strokeStyle = this.colours.ground;
    context.strokeText(vehicle.id, beside, y);
    context.fillStyle = this.colours.strong;
    context.fillText(vehicle.id, beside, y);
  }

  _drawGrid() {
    const { context, bounds } = this;
    const step = gridStep(Math.max(this.width, this.height) / this.scale / 4);
    context.strokeStyle = this.colours.line;
    context.fillStyle = this.colours.ink;
    context.lineWidth = 1;
    context.font = this.fonts;
    context.textBaseline = "alphabetic";
    context.textAlign = "left";
    const digits = Math.max(0, Math.ceil(-Math.log10(step)));
    const halfHeight = this.height / 2 / this.scale;
    const halfWidth = this.width / 2 / this.scale / this.squeeze;
    const [middleLat, middleLong] = [(bounds.south + bounds.north) / 2, (bounds.west + bounds.east) / 2];
    // Labels only as often as they have room.
    const labelStep = step * Math.ceil(LABEL_WIDTH / (step * this.squeeze * this.scale));
    context.beginPath();
    for (let lat = Math.ceil((middleLat - halfHeight) / step) * step; lat < middleLat + halfHeight; lat += step) {
      const y = Math.round(this._y(lat)) + 0.5;
      context.moveTo(0, y);
      context.lineTo(this.width, y);
      context.fillText(`${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}`, 6, y - 4);
    }
    for (let long = Math.ceil((middleLong - halfWidth) / step) * step; long < middleLong + halfWidth; long += step) {
      const x = Math.round(this._x(long)) + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, this.height);
      const isLabelled = x > LABEL_WIDTH && Math.round(long / step) % Math.round(labelStep / step) === 0;
      if (isLabelled) context.fillText(`${Math.abs(long).toFixed(digits)}° ${long < 0 ? "W" : "E"}`, x + 4, this.height - 8);
    }
    context.stroke();
    this._drawScaleBar();
  }

  _drawScaleBar() {
    const { context } = this;
    const pixelsAKilometre = this.scale / 111.32;
    const kilometres = gridStep(150 / pixelsAKilometre);
    const length = kilometres * pixelsAKilometre;
    const [x, y] = [this.width - PADDING / 2 - length, this.height - 30];
    context.strokeStyle = this.colours.ink;
    context.beginPath();
    context.moveTo(x, y - 5);
    context.lineTo(x, y);
    context.lineTo(x + length, y);
    context.lineTo(x + length, y - 5);
    context.stroke();
    context.textAlign = "center";
    context.fillText(kilometres < 1 ? `${kilometres * 1000} m` : `${kilometres} km`, x + length / 2, y - 6);
  }

  // The vehicle nearest to a point of the canvas, if one is near.
  pick(x, y, nowMs) {
    let [nearest, distance] = [null, PICK_RADIUS];
    if (!this.bounds) return null;
    for (const vehicle of this.fleet.vehicles.values()) {
      if (vehicle.lat === null) continue;
      const place = this._place(vehicle, nowMs);
      const away = Math.hypot(place.x - x, place.y - y);
      if (away < distance) [nearest, distance] = [vehicle, away];
    }
    return nearest;
  }
}

// 1, 2 or 5 times a power of ten: the largest that is not above `wanted`.
function gridStep(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  const lead = wanted / power;
  return (lead >= 5 ? 5 : lead >= 2 ? 2 : 1) * power;
}
