"""Run a plan of cmsched, from its JSON, with portable noise: NumPy only; see docs/porting.md."""

import json
import sys

import numpy as np

START, STEP = 0, 1
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))

# float32: Phi^-1 = t P(s) / Q(s) with t = -2 log(p), s = sqrt(t), lowest powers first
P = (0.6266570774, 0.876582497, 0.9268506186, 0.5773001663, 0.2214799922, 0.03170142259)
Q = (1.0, 1.398825348, 1.72899101, 1.271375842, 0.6766559153, 0.2232943213, 0.03167154267)
# float64: algorithm AS 241, PPND16
A = (
    *(3.3871328727963666080, 133.14166789178437745, 1971.5909503065514427, 13731.693765509461125),
    *(45921.953931549871457, 67265.770927008700853, 33430.575583588128105, 2509.0809287301226727),
)
B = (
    *(1.0, 42.313330701600911252, 687.18700749205790830, 5394.1960214247511077),
    *(21213.794301586595867, 39307.895800092710610, 28729.085735721942674, 5226.4952788528545610),
)
C = (
    *(1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550),
    *(3.64784832476320460504, 1.27045825245236838258, 0.241780725177450611770),
    *(0.0227238449892691845833, 7.74545014278341407640e-4),
)
D = (
    *(1.0, 2.05319162663775882187, 1.67638483018380384940, 0.689767334985100004550),
    *(0.148103976427480074590, 0.0151986665636164571966, 5.47593808499534494600e-4),
    *(1.05075007164441684324e-9,),
)


def threefry(key, counter):
    """Threefry-2x32 of 20 rounds, on arrays of uint32, which wrap around."""
    k0, k1 = (np.asarray(k, np.uint32) for k in key)
    schedule = (k0, k1, k0 ^ k1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = (np.asarray(x, np.uint32) + k for x, k in zip(counter, (k0, k1), strict=True))
    for group in range(5):
        for count in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = (x1 << np.uint32(count) | x1 >> np.uint32(32 - count)) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1


def words(seed, sample, purpose, row, rank, size):
    """The words of the elements of one sample, in C order."""
    with np.errstate(over="ignore"):
        key = (seed >> 32, seed & 0xFFFFFFFF)
        for counter in ((0, sample), (0, purpose), (rank, row)):
            key = threefry(key, counter)
        element = np.arange(size, dtype=np.uint64)
        x0, x1 = threefry(key, (element >> np.uint64(32), element & np.uint64(0xFFFFFFFF)))
    return x0 ^ x1


def polynomial(coefficients, x):
    """Horner's rule, lowest powers first."""
    total = np.zeros_like(x)
    for c in coefficients[::-1]:
        total = total * x + x.dtype.type(c)
    return total


def normal(word, dtype):
    """Phi^-1((word + 1/2) / 2^32)."""
    signed = word.astype(np.int64) - (1 << 31)
    tail = np.where(signed < 0, word.astype(np.int64), (1 << 32) - 1 - word.astype(np.int64))
    sign = np.where(signed < 0, -1, 1).astype(dtype)
    log = np.log((tail.astype(dtype) + dtype(0.5)) * dtype(2.0**-31))  # of twice the tail
    if dtype == np.float32:
        t = dtype(-2) * log
        s = np.sqrt(t)
        return sign * (t * polynomial(P, s) / polynomial(Q, s))
    r = np.sqrt(np.log(2.0) - log) - 1.6
    q = (signed + 0.5) * 2.0**-32
    square = 0.180625 - q * q
    centre = q * polynomial(A, square) / polynomial(B, square)
    outside = sign * polynomial(C, r) / polynomial(D, r)
    return np.where((1 << 31) - 1 - tail <= 1825361100, centre, outside)


def normals(seed, shape, purpose, row, rank=0, dtype=np.float64, first=0):
    """Unit normals of a batch whose samples are numbered from `first` on."""
    size = int(np.prod(shape[1:]))
    each = [words(seed, first + k, purpose, row, rank, size) for k in range(shape[0])]
    return normal(np.stack(each), dtype).reshape(shape)


def sample(plan, model, shape, seed, dtype=np.float64, given=None):
    """Run a plan, the data of its JSON: model(x, t) is the network."""
    start, dtype = plan["start"], np.dtype(dtype).type
    values = {"start": start["scale"] * normals(seed, shape, START, 0, 0, dtype), **(given or {})}
    mask = values.get("mask", 1)
    where = {"everywhere": 1, "inside": mask, "outside": 1 - mask}
    for i, row in enumerate([start, *plan["rows"]]):
        if i > 0:  # the network
            x, c = values["x"], row["estimate"]
            output, variance = np.split(model(row["scale"] * x, row["t"]), [shape[1]], axis=1)
            estimate = project(c["x"] * x + c["output"] * output, **plan["prediction"])
            values |= {"output": output, "x0": c["skip"] * x + c["out"] * estimate}
        for draw in row["draws"]:
            z = normals(seed, shape, STEP, i, draw["rank"], dtype)
            if draw["log_range"]:  # a learned variance
                low, high = draw["log_range"]
                z = np.exp(variance * (high - low) / 4 + (high + low) / 4) * z
            values[draw["name"]] = z
        for total in row["sums"]:  # in this order: later ones use earlier ones
            terms = [t["weight"] * where[t["where"]] * values[t["value"]] for t in total["terms"]]
            values[total["name"]] = sum(terms)
        values |= {name: values[value] for name, value in row["next"].items()}  # all at once
    return values["x"]


def project(x0, clip, threshold, **_):
    """Clip, or threshold dynamically."""
    if threshold is None:
        return x0 if clip is None else np.clip(x0, -clip, clip)
    s = np.quantile(np.abs(x0), threshold[0], axis=tuple(range(1, x0.ndim)), keepdims=True)
    s = np.clip(s, 1, threshold[1]).astype(x0.dtype)
    return np.clip(x0, -s, s) / s


if __name__ == "__main__":
    path, seed, shape = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        plan = json.load(file)
    network = lambda x, t: 0.6 * np.tanh(x) + 0.1 * np.sin(t / 100)  # noqa: E731
    made = sample(plan, network, tuple(map(int, shape.split(","))), int(seed))
    print("\n".join(map(repr, made.ravel().tolist())))
