// Run a plan of cmsched, from its JSON, with portable noise; see docs/porting.md.

const START = 0, STEP = 1;
const ROTATIONS = [[13, 15, 26, 6], [17, 29, 16, 24]];

// algorithm AS 241, PPND16, lowest powers first
const A = [3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125,
  45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727];
const B = [1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077,
  21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610];
const C = [1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550,
  3.64784832476320460504, 1.27045825245236838258, 0.241780725177450611770,
  0.0227238449892691845833, 7.74545014278341407640e-4];
const D = [1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550,
  0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4,
  1.05075007164441684324e-9];

// Threefry-2x32 of 20 rounds, on unsigned numbers of 32 bits.
export function threefry([k0, k1], [x0, x1]) {
  const schedule = [k0, k1, (k0 ^ k1 ^ 0x1bd11bda) >>> 0];
  x0 = (x0 + k0) >>> 0;
  x1 = (x1 + k1) >>> 0;
  for (let group = 0; group < 5; group++) {
    for (const count of ROTATIONS[group % 2]) {
      x0 = (x0 + x1) >>> 0;
      x1 = (((x1 << count) | (x1 >>> (32 - count))) ^ x0) >>> 0;
    }
    x0 = (x0 + schedule[(group + 1) % 3]) >>> 0;
    x1 = (x1 + schedule[(group + 2) % 3] + group + 1) >>> 0;
  }
  return [x0, x1];
}

const polynomial = (c, x) => c.reduceRight((total, a) => total * x + a, 0);

// Phi^-1((word + 1/2) / 2^32).
export function normal(word) {
  const signed = word - 2 ** 31;
  const tail = signed < 0 ? word : 2 ** 32 - 1 - word;
  if (2 ** 31 - 1 - tail <= 1825361100) {
    const q = (signed + 0.5) / 2 ** 32, r = 0.180625 - q * q;
    return (q * polynomial(A, r)) / polynomial(B, r);
  }
  const r = Math.sqrt(-Math.log((tail + 0.5) / 2 ** 32)) - 1.6;
  return (Math.sign(signed + 0.5) * polynomial(C, r)) / polynomial(D, r);
}

// Unit normals of a batch whose samples are numbered from `first` on; the seed is a BigInt.
export function normals(seed, shape, purpose, row, rank = 0, first = 0) {
  const [batch, ...rest] = shape, size = rest.reduce((a, b) => a * b, 1);
  const z = new Float64Array(batch * size);
  for (let k = 0; k < batch; k++) {
    let key = [Number(seed >> 32n), Number(seed & 0xffffffffn)];
    for (const counter of [[0, first + k], [0, purpose], [rank, row]]) key = threefry(key, counter);
    for (let i = 0; i < size; i++) {
      const [x0, x1] = threefry(key, [Math.floor(i / 2 ** 32), i >>> 0]);
      z[k * size + i] = normal((x0 ^ x1) >>> 0);
    }
  }
  return z;
}

// Clip one sample, or threshold it dynamically.
function project(x0, { clip, threshold }) {
  if (threshold === null) {
    return clip === null ? x0 : x0.map((v) => Math.min(Math.max(v, -clip), clip));
  }
  const [ratio, largest] = threshold, sorted = x0.map(Math.abs).sort();
  const place = ratio * (sorted.length - 1), low = Math.floor(place);
  const high = Math.min(low + 1, sorted.length - 1);
  const quantile = sorted[low] * (1 - (place - low)) + sorted[high] * (place - low);
  const s = Math.min(Math.max(quantile, 1), largest);
  return x0.map((v) => Math.min(Math.max(v, -s), s) / s);
}

// Run a plan, the data of its JSON. model(x, t) is the network, on flat arrays, batch first; given
// holds the arrays that a plan asks for, its mask of the size of the sample.
export function sample(plan, model, shape, seed, given = {}) {
  const start = plan.start, count = shape.reduce((a, b) => a * b, 1), size = count / shape[0];
  const of = (f) => Float64Array.from({ length: count }, (_, i) => f(i));
  const noise = normals(seed, shape, START, 0);
  const values = { start: of((i) => start.scale * noise[i]), ...given };
  const weigh = {
    everywhere: () => 1,
    inside: (i) => values.mask[i],
    outside: (i) => 1 - values.mask[i],
  };
  for (const [number, row] of [start, ...plan.rows].entries()) {
    let said = null, perSample = 0;
    if (number > 0) {
      const x = values.x, c = row.estimate;
      said = model(of((i) => row.scale * x[i]), row.t);
      perSample = said.length / shape[0]; // twice the size with a learned variance
      const output = of((i) => said[Math.floor(i / size) * perSample + (i % size)]);
      const x0 = of((i) => c.x * x[i] + c.output * output[i]);
      for (let k = 0; k < shape[0]; k++) {
        x0.set(project(x0.slice(k * size, (k + 1) * size), plan.prediction), k * size);
      }
      values.output = output;
      values.x0 = of((i) => c.skip * x[i] + c.out * x0[i]);
    }
    for (const draw of row.draws) {
      const z = normals(seed, shape, STEP, number, draw.rank);
      if (draw.log_range !== null) {
        const [low, high] = draw.log_range;
        const v = (i) => said[Math.floor(i / size) * perSample + size + (i % size)];
        z.forEach((_, i) => (z[i] *= Math.exp((v(i) * (high - low)) / 4 + (high + low) / 4)));
      }
      values[draw.name] = z;
    }
    for (const sum of row.sums) { // in this order: later ones use earlier ones
      const total = new Float64Array(count);
      for (const term of sum.terms) {
        const value = values[term.value], at = weigh[term.where];
        for (let i = 0; i < count; i++) total[i] += term.weight * at(i) * value[i];
      }
      values[sum.name] = total;
    }
    const next = Object.entries(row.next).map(([name, value]) => [name, values[value]]);
    for (const [name, value] of next) values[name] = value; // all at once
  }
  return values.x;
}

if (typeof process !== "undefined" && process.argv[1]?.endsWith("sample.mjs")) {
  const { readFileSync } = await import("node:fs");
  const [path, seed, shape] = process.argv.slice(2);
  const plan = JSON.parse(readFileSync(path, "utf8"));
  const network = (x, t) => x.map((v) => 0.6 * Math.tanh(v) + 0.1 * Math.sin(t / 100));
  console.log(sample(plan, network, shape.split(",").map(Number), BigInt(seed)).join("\n"));
}
