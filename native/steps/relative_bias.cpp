#include "steps/relative_bias.hpp"

namespace bitsr {

namespace {

constexpr float kLog2E = 1.44269504f;

}  // namespace

RelativeBias::RelativeBias(const float* table, int heads, int window, int margin, int lanes) {
    const int side = window + 2 * margin, most = window + margin - 1, row = 2 * most + 1;
    const int queries = window * window, width = (queries + 15) / 16 * 16, keys = side * side;
    // Where the table has the bias of a query and a key: at the sum of both.
    const auto of_query = [&](int i) { return i / window * row + i % window; };
    const auto of_key = [&](int j) { return (most + margin - j / side) * row + most + margin - j % side; };
    const bool in_place = window % lanes == 0;
    if (in_place) {
        for (int i = 0; i < width; ++i) query_.push_back(of_query(i));
        for (int j = 0; j < keys; ++j) key_.push_back(of_key(j));
        pitch_ = round_up(row * row, 16);
    } else if (lanes % window == 0) {  // by the distance of the vector's first row from the key's, and the key's column
        const int rows = round_up(width, lanes) / window;
        for (int i = 0; i < width; ++i) query_.push_back(i / lanes * (lanes / window) * side * lanes);
        for (int j = 0; j < keys; ++j) key_.push_back(((side - 1 - j / side) * side + j % side) * lanes);
        pitch_ = (rows + side) * side * lanes;
    } else {
        for (int i = 0; i < width; ++i) query_.push_back(i / lanes * keys * lanes);
        for (int j = 0; j < keys; ++j) key_.push_back(j * lanes);
        pitch_ = width * keys;
    }
    numbers_ = Memory(heads * pitch_);
    for (int head = 0; head < heads; ++head, table += row * row) {
        float* to = reinterpret_cast<float*>(numbers_.data()) + head * pitch_;
        if (in_place) {
            for (int n = 0; n < row * row; ++n) to[n] = table[n] * kLog2E;
        } else {
            for (int i = 0; i < queries; ++i)
                for (int j = 0; j < keys; ++j) to[query_[i] + key_[j] + i % lanes] = table[of_query(i) + of_key(j)] * kLog2E;
        }
    }
}

void RelativeBias::give(Attention& a) const {
    a.bias = reinterpret_cast<const float*>(numbers_.data());
    a.bias_pitch = pitch_;
    a.query_bias = query_.data();
    a.key_bias = key_.data();
}

}  // namespace bitsr
