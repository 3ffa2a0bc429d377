// Run a plan of cmsched, from its JSON, with portable noise; see docs/porting.md.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using Array = std::vector<double>;  // of a batch, in C order
using Words = std::array<uint32_t, 2>;

// As much of JSON as a plan is written in.
struct Json {
  enum Kind { null, boolean, number, string, list, object } kind = null;
  double value = 0;
  std::string text;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  const Json& operator[](const std::string& key) const {
    for (const auto& [name, member] : members)
      if (name == key) return member;
    throw std::runtime_error("the plan has no key " + key);
  }
  const Json& operator[](size_t i) const { return items.at(i); }
  operator double() const { return value; }
};

struct Reader {
  const std::string& text;
  size_t at = 0;

  char peek() {
    while (at < text.size() && std::isspace(static_cast<unsigned char>(text[at]))) at++;
    if (at == text.size()) throw std::runtime_error("the plan ends early");
    return text[at];
  }
  bool take(char c) { return peek() == c && ++at; }
  void expect(char c) {
    if (!take(c)) throw std::runtime_error(std::string("expected ") + c);
  }
  std::string quoted() {
    std::string made;
    for (expect('"'); text.at(at) != '"'; at++) {
      if (text[at] == '\\') at++;  // names in plans have no other escapes than \" and \\.
      made += text.at(at);
    }
    at++;
    return made;
  }
  Json read() {
    Json made;
    const char c = peek();
    if (c == '{' || c == '[') {
      made.kind = c == '{' ? Json::object : Json::list;
      const char end = c == '{' ? '}' : ']';
      at++;
      while (!take(end)) {
        if (c == '{') {
          std::string key = quoted();
          expect(':');
          made.members.emplace_back(key, read());
        } else {
          made.items.push_back(read());
        }
        if (peek() != end) expect(',');
      }
    } else if (c == '"') {
      made.kind = Json::string;
      made.text = quoted();
    } else if (c == 't' || c == 'f') {
      made.kind = Json::boolean;
      made.value = c == 't';
      at += c == 't' ? 4 : 5;
    } else if (c == 'n') {
      at += 4;
    } else {
      const char* begin = text.c_str() + at;
      char* end = nullptr;
      made.kind = Json::number;
      made.value = std::strtod(begin, &end);
      if (end == begin) throw std::runtime_error("expected a number");
      at += end - begin;
    }
    return made;
  }
};

// Threefry-2x32 of 20 rounds.
Words threefry(Words key, Words x) {
  static const int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  const uint32_t schedule[3] = {key[0], key[1], key[0] ^ key[1] ^ 0x1BD11BDAu};
  x = {x[0] + key[0], x[1] + key[1]};
  for (int group = 0; group < 5; group++) {
    for (int count : rotations[group % 2]) {
      x[0] += x[1];
      x[1] = (x[1] << count | x[1] >> (32 - count)) ^ x[0];
    }
    x[0] += schedule[(group + 1) % 3];
    x[1] += schedule[(group + 2) % 3] + group + 1;
  }
  return x;
}

double polynomial(const double (&c)[8], double x) {
  double total = 0;
  for (int k = 7; k >= 0; k--) total = total * x + c[k];
  return total;
}

// Phi^-1((word + 1/2) / 2^32), by algorithm AS 241, PPND16.
double normal(uint32_t word) {
  static const double A[8] = {3.3871328727963666080, 133.14166789178437745,
                              1971.5909503065514427, 13731.693765509461125,
                              45921.953931549871457, 67265.770927008700853,
                              33430.575583588128105, 2509.0809287301226727};
  static const double B[8] = {1.0,                   42.313330701600911252,
                              687.18700749205790830, 5394.1960214247511077,
                              21213.794301586595867, 39307.895800092710610,
                              28729.085735721942674, 5226.4952788528545610};
  static const double C[8] = {1.42343711074968357734,  4.63033784615654529590,
                              5.76949722146069140550,  3.64784832476320460504,
                              1.27045825245236838258,  0.241780725177450611770,
                              0.0227238449892691845833, 7.74545014278341407640e-4};
  static const double D[8] = {1.0,                     2.05319162663775882187,
                              1.67638483018380384940,  0.689767334985100004550,
                              0.148103976427480074590, 0.0151986665636164571966,
                              5.47593808499534494600e-4, 1.05075007164441684324e-9};
  const double distance = double(word) - 2147483648.0;
  const uint32_t tail = distance < 0 ? word : 4294967295u - word;
  if (2147483647u - tail <= 1825361100u) {
    const double q = (distance + 0.5) / 4294967296.0, r = 0.180625 - q * q;
    return q * polynomial(A, r) / polynomial(B, r);
  }
  const double r = std::sqrt(-std::log((tail + 0.5) / 4294967296.0)) - 1.6;
  const double z = polynomial(C, r) / polynomial(D, r);
  return distance < 0 ? -z : z;
}

enum Purpose : uint32_t { START = 0, STEP = 1 };

// Unit normals of a batch whose samples are numbered from `first` on.
Array normals(uint64_t seed, size_t batch, size_t size, Purpose purpose, uint32_t row,
              uint32_t rank = 0, uint32_t first = 0) {
  Array z(batch * size);
  for (size_t k = 0; k < batch; k++) {
    Words key = {uint32_t(seed >> 32), uint32_t(seed)};
    for (Words counter : {Words{0, uint32_t(first + k)}, Words{0, purpose}, Words{rank, row}})
      key = threefry(key, counter);
    for (size_t i = 0; i < size; i++) {
      const Words x = threefry(key, {uint32_t(uint64_t(i) >> 32), uint32_t(i)});
      z[k * size + i] = normal(x[0] ^ x[1]);
    }
  }
  return z;
}

// Clip one sample, or threshold it dynamically.
void project(double* x0, size_t size, const Json& prediction) {
  const Json &clip = prediction["clip"], &threshold = prediction["threshold"];
  if (threshold.kind == Json::null) {
    if (clip.kind == Json::null) return;
    for (size_t i = 0; i < size; i++) x0[i] = std::min(std::max(x0[i], -clip.value), clip.value);
    return;
  }
  Array sorted(x0, x0 + size);
  for (double& v : sorted) v = std::abs(v);
  std::sort(sorted.begin(), sorted.end());
  const double place = threshold[0] * (size - 1), part = place - std::floor(place);
  const size_t low = size_t(place), high = std::min(low + 1, size - 1);
  const double quantile = sorted[low] * (1 - part) + sorted[high] * part;
  const double s = std::min(std::max(quantile, 1.0), threshold[1].value);
  for (size_t i = 0; i < size; i++) x0[i] = std::min(std::max(x0[i], -s), s) / s;
}

// Run a plan. model(x, t) is the network, on flat arrays, batch first; given holds the arrays that a
// plan asks for, its mask of the size of the sample.
Array sample(const Json& plan, const std::function<Array(const Array&, double)>& model, size_t batch,
             size_t size, uint64_t seed, std::map<std::string, Array> values = {}) {
  const size_t count = batch * size;
  values["start"] = normals(seed, batch, size, START, 0);
  for (double& v : values["start"]) v *= plan["start"]["scale"];
  for (size_t number = 0; number <= plan["rows"].items.size(); number++) {
    const Json& row = number ? plan["rows"][number - 1] : plan["start"];
    Array said;
    size_t wide = size;  // of what the network says of a sample: twice with a learned variance
    if (number) {
      const Array& x = values["x"];
      const Json& c = row["estimate"];
      Array input(x), output(count), x0(count);
      for (double& v : input) v *= row["scale"];
      said = model(input, row["t"]);
      wide = said.size() / batch;
      for (size_t i = 0; i < count; i++) {
        output[i] = said[i / size * wide + i % size];
        x0[i] = c["x"] * x[i] + c["output"] * output[i];
      }
      for (size_t k = 0; k < batch; k++) project(&x0[k * size], size, plan["prediction"]);
      for (size_t i = 0; i < count; i++) x0[i] = c["skip"] * x[i] + c["out"] * x0[i];
      values["output"] = output;
      values["x0"] = x0;
    }
    for (const Json& draw : row["draws"].items) {
      Array z = normals(seed, batch, size, STEP, number, uint32_t(draw["rank"].value));
      const Json& range = draw["log_range"];
      for (size_t i = 0; range.kind != Json::null && i < count; i++) {
        const double v = said[i / size * wide + size + i % size], low = range[0], high = range[1];
        z[i] *= std::exp(v * (high - low) / 4 + (high + low) / 4);
      }
      values[draw["name"].text] = z;
    }
    for (const Json& sum : row["sums"].items) {  // in this order: later ones use earlier ones
      Array total(count, 0.0);
      for (const Json& term : sum["terms"].items) {
        const Array& value = values.at(term["value"].text);
        const std::string& where = term["where"].text;
        const double weight = term["weight"];
        for (size_t i = 0; i < count; i++) {
          double w = weight;
          if (where != "everywhere")
            w *= where == "inside" ? values.at("mask")[i] : 1 - values.at("mask")[i];
          total[i] += w * value[i];
        }
      }
      values[sum["name"].text] = total;
    }
    std::map<std::string, Array> next;
    for (const auto& [name, value] : row["next"].members) next[name] = values.at(value.text);
    for (auto& [name, value] : next) values[name] = std::move(value);  // all at once
  }
  return values.at("x");
}

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: sample plan.json seed batch,channels,height,width\n");
    return 2;
  }
  std::ifstream file(argv[1]);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  Reader reader{text};
  const Json plan = reader.read();
  size_t batch = 0, size = 1;
  std::stringstream shape(argv[3]);
  for (std::string n; std::getline(shape, n, ',');) {
    if (batch == 0)
      batch = std::stoul(n);
    else
      size *= std::stoul(n);
  }
  const auto network = [](const Array& x, double t) {
    Array output(x);
    for (double& v : output) v = 0.6 * std::tanh(v) + 0.1 * std::sin(t / 100);
    return output;
  };
  for (double v : sample(plan, network, batch, size, std::stoull(argv[2])))
    std::printf("%.17g\n", v);
}
