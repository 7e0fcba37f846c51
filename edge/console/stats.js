// Counts for each channel: bytes as received, bytes as full frames, publications, latencies.

const SAMPLES = 200;

// The newest latencies, and their median.
export class Latency {
  constructor() {
    this.samples = [];
    this.next = 0;
    this.last = null;
  }

  add(ms) {
    this.last = ms;
    this.samples[this.next] = ms;
    this.next = (this.next + 1) % SAMPLES;
  }

  get p50() {
    if (!this.samples.length) return null;
    const sorted = [...this.samples].sort((a, b) => a - b);
    return sorted[Math.floor((sorted.length - 1) / 2)];
  }
}

export class Meter {
  constructor() {
    this.received = 0;
    this.full = 0;
    this.publications = 0;
    this.deltas = 0;
    this.latency = new Latency();
  }

  count({ wireBytes, fullWireBytes, isDelta }) {
    this.received += wireBytes;
    this.full += fullWireBytes;
    this.publications += 1;
    if (isDelta) this.deltas += 1;
  }

  // The share that deltas saved, 0 to 1; below 0 where they cost more; null before the first publication.
  get saving() {
    return this.full ? 1 - this.received / this.full : null;
  }
}

export class Stats {
  constructor() {
    this.reset();
  }

  reset() {
    this.total = new Meter();
    this.channels = new Map();
  }

  count(publication) {
    this.meter(publication.channel).count(publication);
    this.total.count(publication);
  }

  addLatency(channel, ms) {
    this.meter(channel).latency.add(ms);
    this.total.latency.add(ms);
  }

  meter(channel) {
    let meter = this.channels.get(channel);
    if (!meter) this.channels.set(channel, (meter = new Meter()));
    return meter;
  }
}
