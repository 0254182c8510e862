#include "check.hpp"

namespace bitsr {

void test_scan(const Kernels& k) {
    const int channels = whole(1, kScanChannels), states = whole(1, 9), pixels = whole(1, 70);
    Map x(channels, pixels), delta(channels, pixels), y(channels, pixels), b(states, pixels), c(states, pixels);
    x.fill(1), delta.fill(0.1f, 0.5f), b.fill(1), c.fill(1);
    std::vector<float> decay(states * kScanChannels), skip(kScanChannels), state(states * kScanChannels);
    for (float& number : decay) number = real(-3, 0) * 1.44269504f;
    for (float& number : skip) number = normal(1);
    for (float& number : state) number = normal(1);
    std::vector<float> scratch(2 * pixels * kScanChannels);
    std::vector<double> h(state.begin(), state.end());
    k.scan({x.planes(), delta.planes(), b.planes(), c.planes(), y.planes(), channels, states, pixels, decay.data(),
            skip.data(), state.data(), scratch.data()});
    Worst worst;
    for (int i = 0; i < pixels; ++i)
        for (int channel = 0; channel < channels; ++channel) {
            double sum = double(skip[channel]) * x.at(channel, i);
            for (int n = 0; n < states; ++n) {
                const int at = n * kScanChannels + channel;
                const double step = delta.at(channel, i);
                h[at] = std::exp2(step * decay[at]) * h[at] + step * x.at(channel, i) * b.at(n, i);
                sum += h[at] * c.at(n, i);
            }
            worst.see(y.at(channel, i), sum);
        }
    for (int n = 0; n < states; ++n)
        for (int channel = 0; channel < channels; ++channel)
            worst.see(state[n * kScanChannels + channel], h[n * kScanChannels + channel]);
    expect(worst.within(2e-6), k, "scan" + worst.text());
}

}  // namespace bitsr
