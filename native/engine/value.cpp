#include "engine/value.hpp"

#include "engine/checks.hpp"

namespace bitsr {

namespace {

// With these bounds the words of a value fit 63 bits by far, so that no product below can overflow.
constexpr int kMostChannels = 1 << 16, kMostPixels = 1 << 20, kMostBorder = 1 << 10;
constexpr std::size_t kMostWords = std::size_t{1} << 48;

void check_common(int channels, std::size_t begin) {
    require(channels >= 1 && channels <= kMostChannels, "channels must be 1..65536");
    require(begin <= kMostWords && begin % 16 == 0, "the offset must be a multiple of 16 words");
}

// A multiple of 16: planes at even multiples of it would compete for the same cache sets.
std::int64_t uneven(std::int64_t pitch) { return pitch % 32 ? pitch : pitch + 16; }

}  // namespace

Value make_map(int channels, int height, int width, Format format, int border, Word fill, std::size_t begin) {
    check_common(channels, begin);
    require(height >= 1 && height <= kMostPixels, "the height must be 1..1048576 pixels");
    require(width >= 1 && width <= kMostPixels, "the width must be 1..1048576 pixels");
    require(border >= 0 && border <= kMostBorder, "the border must be 0..1024 pixels");
    const int planes = planes_of(channels, format);
    const std::int64_t side = round_up_16(border);
    const std::int64_t pitch = uneven(side + round_up_16(width) + side);
    const std::int64_t row = planes * pitch;
    // The slack lets the last tile's taps read a whole tile.
    const std::int64_t words = (height + 2 * std::int64_t{border}) * row + kTile;
    const std::int64_t origin = std::int64_t(begin) + border * row + side;
    return {Space::arena, format, channels, planes,          height, width, border, fill,
            begin,        std::size_t(words), origin, row, pitch,  1};
}

Value make_local(int channels, int width, Format format, std::size_t begin) {
    check_common(channels, begin);
    require(width >= 1 && width <= kMostPixels, "the width must be 1..1048576 pixels");
    const int planes = planes_of(channels, format);
    const std::int64_t words = round_up_16(width), pitch = words > kTile ? uneven(words) : words;
    return {Space::scratch, format, channels, planes, 1, int(words), 0, 0, begin, std::size_t(planes * pitch),
            std::ptrdiff_t(begin), 0, pitch, 0};
}

Value make_part(const Value& whole, int start, int channels) {
    require(whole.format == Format::f32, "only f32 values have parts");
    require(start >= 0 && channels >= 1 && start <= whole.channels - channels, "there are no such channels");
    Value part = whole;
    part.channels = part.planes = channels;
    part.first += start;
    part.origin += start * whole.pitch;
    return part;
}

}  // namespace bitsr
