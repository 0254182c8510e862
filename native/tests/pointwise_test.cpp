#include "check.hpp"

namespace bitsr {

void test_pointwise(const Kernels& k) {
    const int channels = whole(1, 70), width = 16 * whole(1, 7);
    Map x(channels, width), y(channels, width), z(channels, width);
    x.fill(real(0.1f, 5), real(-3, 3)), y.fill(1);
    std::vector<float> weight(channels), bias(channels);
    for (int c = 0; c < channels; ++c) weight[c] = normal(1), bias[c] = normal(1);

    const auto check = [&](const char* what, double tolerance, auto should) {
        Worst worst;
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < width; ++i) worst.see(z.at(c, i), should(c, i));
        expect(worst.within(tolerance), k, what + worst.text());
    };
    const double slope = 0.1f;
    k.add(x.planes(), y.planes(), z.planes(), channels, width);
    check("add", 1e-7, [&](int c, int i) { return double(x.at(c, i)) + y.at(c, i); });
    k.multiply(x.planes(), y.planes(), z.planes(), channels, width);
    check("multiply", 1e-7, [&](int c, int i) { return double(x.at(c, i)) * y.at(c, i); });
    k.multiply(x.planes(), {y.words.data(), 0}, z.planes(), channels, width);
    check("multiply by a plane", 1e-7, [&](int c, int i) { return double(x.at(c, i)) * y.at(0, i); });
    k.affine(x.planes(), z.planes(), channels, width, weight.data(), bias.data(), 1);
    check("affine", 2e-7, [&](int c, int i) { return double(x.at(c, i)) * weight[c] + bias[c]; });
    k.affine(x.planes(), z.planes(), channels, width, weight.data(), nullptr, 0);
    check("affine by a number", 2e-7, [&](int c, int i) { return double(x.at(c, i)) * weight[0]; });

    const auto activation = [&](const char* what, Function function, double tolerance, auto should) {
        k.activate(function, slope, x.planes(), z.planes(), channels, width);
        check(what, tolerance, [&](int c, int i) { return should(double(x.at(c, i))); });
    };
    for (int i = 0; i < width; ++i) x.at(0, i) = real(-100, 100);
    activation("relu", Function::relu, 0, [](double v) { return std::max(v, 0.0); });
    activation("leaky_relu", Function::leaky_relu, 1e-7, [&](double v) { return v > 0 ? v : slope * v; });
    activation("gelu", Function::gelu, 1e-6, [](double v) { return v * 0.5 * std::erfc(-v * std::sqrt(0.5)); });
    activation("sigmoid", Function::sigmoid, 1e-6, [](double v) { return 1 / (1 + std::exp(-v)); });
    activation("tanh", Function::tanh, 1e-6, [](double v) { return std::tanh(v); });
    activation("clip", Function::clip, 0, [](double v) { return std::min(std::max(v, 0.0), 1.0); });
    activation("softplus", Function::softplus, 3e-7,
               [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))); });

    for (Word& w : x.words) {
        const float few = std::nearbyint(normal(1.5f));
        std::memcpy(&w, &few, sizeof w);
    }
    k.argmax(x.planes(), z.planes(), channels, width);
    for (int i = 0; i < width; ++i) {
        int largest = 0;
        for (int c = 1; c < channels; ++c)
            if (x.at(c, i) > x.at(largest, i)) largest = c;
        expect(z.at(0, i) == float(largest), k, "argmax");
    }
    k.magnitude(x.planes(), z.planes(), channels, width);
    for (int i = 0; i < width; ++i) {
        double sum = 0;
        for (int c = 0; c < channels; ++c) sum += std::abs(x.at(c, i));
        expect(std::abs(z.at(0, i) - sum / channels) <= 1e-6 * sum, k, "magnitude");
    }

    std::vector<std::int32_t> starts{0}, columns;
    std::vector<float> values;
    for (int row = 0; row < channels; ++row) {
        for (int n = whole(0, 3); n > 0; --n) {
            columns.push_back(whole(0, channels - 1));
            values.push_back(normal(1));
        }
        starts.push_back(int(columns.size()));
    }
    k.sparse(x.planes(), z.planes(), channels, width, starts.data(), columns.data(), values.data());
    check("sparse", 1e-5, [&](int c, int i) {
        double sum = 0;
        for (int n = starts[c]; n < starts[c + 1]; ++n) sum += double(values[n]) * x.at(columns[n], i);
        return sum;
    });

    x.fill(real(0.1f, 5), real(-3, 3));
    std::vector<double> mean(width), variance(width, 1e-5f);
    for (int i = 0; i < width; ++i) {
        for (int c = 0; c < channels; ++c) mean[i] += x.at(c, i) / double(channels);
        for (int c = 0; c < channels; ++c) variance[i] += std::pow(x.at(c, i) - mean[i], 2) / channels;
    }
    k.layer_norm(x.planes(), z.planes(), channels, width, weight.data(), bias.data(), 1e-5f);
    check("layer_norm", channels < 8 ? 2e-3 : 2e-5, [&](int c, int i) {
        return (x.at(c, i) - mean[i]) / std::sqrt(variance[i]) * weight[c] + bias[c];
    });
}

}  // namespace bitsr
