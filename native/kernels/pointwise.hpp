// Steps that treat every pixel alike.

// `f` changes an array of vectors in place.
template <class Change>
BITSR_INLINE void change_planes(Planes x, Planes y, int channels, int width, Change f) {
    constexpr int many = 16 / L * (L == 16 ? 4 : 1);
    for (int c = 0; c < channels; ++c) {
        const float* from = x.floats(c);
        float* to = y.floats(c);
        int i = 0;
        for (; i + many * L <= width; i += many * L) {
            F v[many];
            for (int n = 0; n < many; ++n) v[n] = load<F>(from + i + n * L);
            f(v);
            for (int n = 0; n < many; ++n) store(to + i + n * L, v[n]);
        }
        for (; i < width; i += L) {
            F v[1] = {load<F>(from + i)};
            f(v);
            store(to + i, v[0]);
        }
    }
}

template <class Function1>
BITSR_INLINE void map_planes(Planes x, Planes y, int channels, int width, Function1 f) {
    change_planes(x, y, channels, width, [&](auto& v) {
        for (F& one : v) one = f(one);
    });
}

static void activate(Function function, float slope, Planes x, Planes y, int channels, int width) {
    switch (function) {
        case Function::relu:
            return map_planes(x, y, channels, width, [](F v) { return max(v, F{}); });
        case Function::leaky_relu:
            return map_planes(x, y, channels, width, [=](F v) { return fma(min(v, F{}), splat(slope), max(v, F{})); });
        case Function::gelu:
            return change_planes(x, y, channels, width, [](auto& v) { gelu(v); });
        case Function::sigmoid:
            return map_planes(x, y, channels, width, [](F v) { return sigmoid(v); });
        case Function::tanh:
            return map_planes(x, y, channels, width, [](F v) { return tanh(v); });
        case Function::clip:
            return map_planes(x, y, channels, width, [](F v) { return min(max(v, F{}), splat(1.0f)); });
        case Function::softplus:
            return map_planes(x, y, channels, width, [](F v) { return softplus(v); });
    }
}

template <class Function2>
BITSR_INLINE void map_pairs(Planes a, Planes b, Planes y, int channels, int width, Function2 f) {
    for (int c = 0; c < channels; ++c) {
        const float *left = a.floats(c), *right = b.floats(c);
        float* to = y.floats(c);
        for (int i = 0; i < width; i += L) store(to + i, f(load<F>(left + i), load<F>(right + i)));
    }
}

static void add(Planes a, Planes b, Planes y, int channels, int width) {
    map_pairs(a, b, y, channels, width, [](F v, F w) { return v + w; });
}

static void multiply(Planes a, Planes b, Planes y, int channels, int width) {
    map_pairs(a, b, y, channels, width, [](F v, F w) { return v * w; });
}

static void affine(Planes x, Planes y, int channels, int width, const float* scale, const float* shift,
                   std::ptrdiff_t stride) {
    for (int c = 0; c < channels; ++c) {
        const float *from = x.floats(c);
        const F by = splat(scale[c * stride]), plus = splat(shift ? shift[c * stride] : 0.0f);
        float* to = y.floats(c);
        for (int i = 0; i < width; i += L) store(to + i, fma(load<F>(from + i), by, plus));
    }
}

// `many` vectors of pixels at a time: as many independent chains of sums.
template <int many>
BITSR_INLINE void norm_pixels(Planes x, Planes y, int channels, int i, const float* weight, const float* bias,
                              float eps) {
    F mean[many] = {}, inverse[many] = {};
    for (int c = 0; c < channels; ++c)
        for (int v = 0; v < many; ++v) mean[v] += load<F>(x.floats(c) + i + v * L);
    for (int v = 0; v < many; ++v) mean[v] /= static_cast<float>(channels);
    for (int c = 0; c < channels; ++c)
        for (int v = 0; v < many; ++v) {
            const F centred = load<F>(x.floats(c) + i + v * L) - mean[v];
            inverse[v] = fma(centred, centred, inverse[v]);
        }
    for (int v = 0; v < many; ++v) inverse[v] = 1.0f / sqrt(inverse[v] / static_cast<float>(channels) + eps);
    for (int c = 0; c < channels; ++c) {
        const F w = splat(weight[c]), b = splat(bias[c]);
        for (int v = 0; v < many; ++v) {
            const F centred = load<F>(x.floats(c) + i + v * L) - mean[v];
            store(y.floats(c) + i + v * L, fma(centred * inverse[v], w, b));
        }
    }
}

static void layer_norm(Planes x, Planes y, int channels, int width, const float* weight, const float* bias, float eps) {
    int i = 0;
    for (; i + 4 * L <= width; i += 4 * L) norm_pixels<4>(x, y, channels, i, weight, bias, eps);
    for (; i < width; i += L) norm_pixels<1>(x, y, channels, i, weight, bias, eps);
}

static void moments(Planes x, int channels, int pixels, float* mean, float* squares, std::ptrdiff_t pitch) {
    const int whole = pixels / L * L;
    const float share = 1.0f / pixels;
    for (int c = 0; c < channels; ++c, mean += pitch, squares += pitch) {
        const float* row = x.floats(c);
        F sums = {};
        for (int i = 0; i < whole; i += L) sums += load<F>(row + i);
        float sum = total(sums);
        for (int i = whole; i < pixels; ++i) sum += row[i];
        const float centre = sum * share;
        F parts = {};
        for (int i = 0; i < whole; i += L) {
            const F v = load<F>(row + i) - centre;
            parts = fma(v, v, parts);
        }
        float part = total(parts);
        for (int i = whole; i < pixels; ++i) part += (row[i] - centre) * (row[i] - centre);
        *mean = centre, *squares = part;
    }
}

static void argmax(Planes x, Planes y, int channels, int width) {
    for (int i = 0; i < width; i += L) {
        F largest = load<F>(x.floats(0) + i), number = {};
        for (int c = 1; c < channels; ++c) {
            const F v = load<F>(x.floats(c) + i);
            const I larger = v > largest;
            largest = larger ? v : largest;
            number = larger ? splat(static_cast<float>(c)) : number;
        }
        store(y.floats(0) + i, number);
    }
}

static void sparse(Planes x, Planes y, int rows, int width, const std::int32_t* starts, const std::int32_t* columns,
                   const float* values) {
    for (int row = 0; row < rows; ++row)
        for (int i = 0; i < width; i += L) {
            F sum = {};
            for (int n = starts[row]; n < starts[row + 1]; ++n)
                sum = fma(load<F>(x.floats(columns[n]) + i), splat(values[n]), sum);
            store(y.floats(row) + i, sum);
        }
}

static void mean_magnitude(Planes x, Planes y, int channels, int width) {
    const F share = splat(1.0f / static_cast<float>(channels));
    for (int i = 0; i < width; i += L) {
        F sum = {};
        for (int c = 0; c < channels; ++c) sum += as_float(as_unsigned(load<F>(x.floats(c) + i)) & 0x7fffffffu);
        store(y.floats(0) + i, sum * share);
    }
}
