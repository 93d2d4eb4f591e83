// Runs the portable CPU kernels on a small clip, without torch, and compares them with their formulas in double.
//
// It checks the graph's weights, and the output and log-sum-exp of attention, in every dtype. In float64 it also checks
// all gradients, with central differences. The program ends with status 1 at the first value that is wrong.
#include "../../csrc/cpu/args.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

namespace stgt {
extern const Kernels kernels_portable;
}

using namespace stgt;

// 70 patches are one full tile and a part of one; 19 channels and 19 head dimensions fill no vector.
constexpr int64_t B = 2, H = 2, T = 3, P = 70, W = 1, C = 19, D = 19, N = T * P, BAND = 2 * W + 1, TILES = 2;
constexpr double THRESHOLD = 0.1, SCALE = 0.4;
const Kernels& cpu = kernels_portable;

#ifdef __aarch64__
typedef __fp16 Float16;
#else
typedef _Float16 Float16;
#endif

struct BFloat16 {
  uint16_t bits = 0;
  BFloat16() = default;
  BFloat16(double value) {
    const float x = float(value);
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    bits = uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
  operator double() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
  }
};

// The types of the accumulator and of the stored weights for elements of type S, and the error that rounding explains.
template <class S> struct Format;
template <> struct Format<double> {
  typedef double Sum, Weight;
  static constexpr Dtype dtype = Dtype::f64;
  static constexpr double error = 1e-12;
};
template <> struct Format<float> {
  typedef float Sum, Weight;
  static constexpr Dtype dtype = Dtype::f32;
  static constexpr double error = 1e-5;
};
template <> struct Format<Float16> {
  typedef float Sum;
  typedef Float16 Weight;
  static constexpr Dtype dtype = Dtype::f16;
  static constexpr double error = 4e-3;
};
template <> struct Format<BFloat16> {
  typedef float Sum;
  typedef Float16 Weight;
  static constexpr Dtype dtype = Dtype::bf16;
  static constexpr double error = 3e-2;
};

void check(const char* name, int64_t index, double actual, double expected, double error) {
  if (std::abs(actual - expected) <= error * (1 + std::abs(expected))) return;
  std::printf("%s[%lld] is %.9g, expected %.9g\n", name, (long long)index, actual, expected);
  std::exit(1);
}

template <class S> std::vector<S> normal(int64_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> draw;
  std::vector<S> values(size);
  for (S& value : values) value = S(draw(generator));
  return values;
}

template <class Args>
void run(int64_t tasks, const Args& args, int64_t (*workspace)(const Args&),
         void (*kernel)(const Args&, int64_t, int64_t, char*)) {
  const int64_t bytes = (workspace(args) / 64 + 1) * 64;
  char* memory = static_cast<char*>(std::aligned_alloc(64, bytes));
  kernel(args, 0, tasks, memory);
  std::free(memory);
}

// Asks for weights in float16 where S is a format of half precision and the kernels take both kinds.
template <class S, class Args> void choose_weights(Args& args) {
  if constexpr (requires { args.half_weight; }) args.half_weight = sizeof(typename Format<S>::Weight) == 2;
}

template <class S> struct Clip {
  typedef typename Format<S>::Sum Sum;
  typedef typename Format<S>::Weight Weight;
  static constexpr int64_t edges = B * N * BAND * P, heads = B * H * N * D;

  std::vector<S> x = normal<S>(B * N * C, 1), dx = std::vector<S>(B * N * C);
  std::vector<S> q = normal<S>(heads, 2), k = normal<S>(heads, 3), v = normal<S>(heads, 4), dout = normal<S>(heads, 5);
  std::vector<S> out = std::vector<S>(heads), dq = out, dk = out, dv = out;
  std::vector<Weight> weight = std::vector<Weight>(edges), dweight = weight;
  std::vector<Weight> upstream = normal<Weight>(edges, 6);  // the gradient that comes to the graph's weights
  std::vector<char> live = std::vector<char>(B * T * TILES * BAND * TILES);
  std::vector<Sum> inv_norm = std::vector<Sum>(B * N), lse = std::vector<Sum>(B * H * N), delta = lse;

  SpatioTemporalGraphArgs graph() {
    SpatioTemporalGraphArgs args{};
    args.dtype = Format<S>::dtype, args.B = B, args.T = T, args.P = P, args.C = C, args.W = W;
    args.threshold = THRESHOLD, args.x = x.data(), args.weight = weight.data();
    args.live = reinterpret_cast<bool*>(live.data()), args.inv_norm = inv_norm.data();
    args.dweight = upstream.data(), args.dx = dx.data();
    choose_weights<S>(args);
    return args;
  }
  GraphAttentionArgs attention() {
    const auto view = [](std::vector<S>& data) { return Heads{data.data(), H * N * D, N * D, D}; };
    GraphAttentionArgs args{};
    args.dtype = Format<S>::dtype, args.B = B, args.H = H, args.T = T, args.P = P, args.W = W, args.D = D;
    args.scale = SCALE, args.weight = weight.data(), args.live = reinterpret_cast<bool*>(live.data());
    args.q = view(q), args.k = view(k), args.v = view(v), args.out = view(out), args.dout = view(dout);
    args.dq = view(dq), args.dk = view(dk), args.dv = view(dv);
    args.lse = lse.data(), args.delta = delta.data(), args.dweight = dweight.data();
    choose_weights<S>(args);
    return args;
  }
  void build() { run(B * T, graph(), cpu.spatio_temporal_graph_fwd_workspace, cpu.spatio_temporal_graph_fwd); }
  void attend() {
    const GraphAttentionArgs args = attention();
    run(B * H * T * args.row_blocks(), args, cpu.graph_attention_fwd_workspace, cpu.graph_attention_fwd);
  }
  void differentiate() {
    run(B * T * TILES, graph(), cpu.spatio_temporal_graph_bwd_workspace, cpu.spatio_temporal_graph_bwd);
    run(B * H, attention(), cpu.graph_attention_bwd_workspace, cpu.graph_attention_bwd);
    run(B * T * TILES, attention(), cpu.graph_attention_bwd_dweight_workspace, cpu.graph_attention_bwd_dweight);
  }
};

template <class V> double dot(const V& a, int64_t i, const V& b, int64_t j, int64_t size) {
  double sum = 0;
  for (int64_t n = 0; n < size; ++n) sum += double(a[i * size + n]) * double(b[j * size + n]);
  return sum;
}

// Calls visit(column, index of the edge) for each column of the clip that row `row` of sample b may attend to.
void for_columns(int64_t b, int64_t row, const std::function<void(int64_t, int64_t)>& visit) {
  for (int64_t o = 0; o < BAND; ++o) {
    const int64_t frame = row / P + o - W;
    if (frame < 0 || frame >= T) continue;
    for (int64_t j = 0; j < P; ++j) visit(frame * P + j, ((b * N + row) * BAND + o) * P + j);
  }
}

template <class S> void check_graph(const Clip<S>& clip) {
  for (int64_t b = 0; b < B; ++b)
    for (int64_t row = 0; row < N; ++row)
      for_columns(b, row, [&](int64_t column, int64_t edge) {
        const int64_t i = b * N + row, j = b * N + column;
        const double norms = std::sqrt(dot(clip.x, i, clip.x, i, C) * dot(clip.x, j, clip.x, j, C));
        const double similarity = dot(clip.x, i, clip.x, j, C) / norms;
        if (std::abs(similarity - THRESHOLD) < 1e-5) return;  // rounding decides whether this is an edge
        const double expected = similarity >= THRESHOLD ? similarity : 0;
        check("weight", edge, double(clip.weight[edge]), expected, std::max(Format<S>::error / 4, 1e-12));
      });
}

template <class S> void check_attention(const Clip<S>& clip) {
  for (int64_t head = 0; head < B * H; ++head)
    for (int64_t row = 0; row < N; ++row) {
      double sum = 0;
      std::vector<double> out(D);
      for_columns(head / H, row, [&](int64_t column, int64_t edge) {
        const double weight = double(clip.weight[edge]);
        if (weight == 0) return;
        const double p = std::exp(SCALE * weight * dot(clip.q, head * N + row, clip.k, head * N + column, D));
        sum += p;
        for (int64_t d = 0; d < D; ++d) out[d] += p * double(clip.v[(head * N + column) * D + d]);
      });
      const int64_t at = head * N + row;
      check("lse", at, double(clip.lse[at]), std::log(sum), Format<S>::error);
      for (int64_t d = 0; d < D; ++d)
        check("out", at * D + d, double(clip.out[at * D + d]), out[d] / sum, Format<S>::error);
    }
}

// Compares a gradient with central differences of `loss` at some of the values that are not 0.
void check_gradient(const char* name, std::vector<double>& values, const std::vector<double>& gradient,
                    const std::function<double()>& loss) {
  constexpr double step = 1e-5;
  for (size_t i = 3; i < values.size(); i += values.size() / 3) {
    while (values[i] == 0) ++i;
    const double value = values[i];
    values[i] = value + step;
    const double above = loss();
    values[i] = value - step;
    const double below = loss();
    values[i] = value;
    check(name, int64_t(i), gradient[i], (above - below) / (2 * step), 1e-6);
  }
}

void check_gradients(Clip<double>& clip) {
  clip.differentiate();
  const auto attended = [&] { return clip.attend(), dot(clip.out, 0, clip.dout, 0, clip.heads); };
  check_gradient("dq", clip.q, clip.dq, attended);
  check_gradient("dk", clip.k, clip.dk, attended);
  check_gradient("dv", clip.v, clip.dv, attended);
  check_gradient("dweight", clip.weight, clip.dweight, attended);
  const auto built = [&] { return clip.build(), dot(clip.weight, 0, clip.upstream, 0, clip.edges); };
  check_gradient("dx", clip.x, clip.dx, built);
}

template <class S> Clip<S> checked(const char* dtype) {
  Clip<S> clip;
  clip.build();
  check_graph(clip);
  clip.attend();
  check_attention(clip);
  std::printf("%s: the graph and attention agree with their formulas\n", dtype);
  return clip;
}

int main() {
  checked<float>("float32");
  checked<Float16>("float16");
  checked<BFloat16>("bfloat16");
  Clip<double> clip = checked<double>("float64");
  check_gradients(clip);
  std::printf("float64: the gradients agree with central differences\n");
}
