// Datagrams by the batch: what plain.py does one at a time, with sendmmsg, recvmmsg and BLAKE2b (RFC 7693) inline.
// The format is datagram.py's; every decision on a received datagram is that of plain.py, in the same order.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int MAC = 8, KEY = 32, HEADER = 22, OVERHEAD = HEADER + MAC, MOST = 1400, LINK = 42;
constexpr uint16_t MAGIC = 0xD7A6;
constexpr uint8_t VERSION = 1, HALF = 1, END = 2;
constexpr int BATCH = 32;
enum Fate { TAKEN, REPEATED, LATE, EARLY, FORGED, FOREIGN };  // in the order of table.COUNTED

constexpr uint64_t IV[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                            0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr uint8_t SIGMA[12][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

inline uint64_t turn(uint64_t x, int bits) { return (x >> bits) | (x << (64 - bits)); }

inline void mix(uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y) {
    v[a] += v[b] + x, v[d] = turn(v[d] ^ v[a], 32), v[c] += v[d], v[b] = turn(v[b] ^ v[c], 24);
    v[a] += v[b] + y, v[d] = turn(v[d] ^ v[a], 16), v[c] += v[d], v[b] = turn(v[b] ^ v[c], 63);
}

void compress(uint64_t* h, const uint8_t* block, uint64_t length, bool last) {
    uint64_t m[16], v[16];
    std::memcpy(m, block, 128);
    for (int i = 0; i < 8; i++) v[i] = h[i], v[i + 8] = IV[i];
    v[12] ^= length;
    if (last) v[14] = ~v[14];
    for (const auto& s : SIGMA) {
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]), mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]), mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]), mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]), mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
}

// BLAKE2b-64 under a key of 32 bytes, of header and values without the MAC between them.
uint64_t mac(const uint8_t* key, const uint8_t* datagram, int size) {
    uint64_t h[8];
    std::memcpy(h, IV, sizeof h);
    h[0] ^= 0x01010000 ^ (KEY << 8) ^ MAC;
    uint8_t block[128] = {};
    std::memcpy(block, key, KEY);
    compress(h, block, 128, false);
    const int total = size - MAC;  // bytes to be signed
    int taken = std::min(128, total);
    std::memset(block, 0, 128);
    std::memcpy(block, datagram, HEADER);
    std::memcpy(block + HEADER, datagram + OVERHEAD, taken - HEADER);
    compress(h, block, 128 + taken, taken == total);
    while (taken < total) {
        const int more = std::min(128, total - taken);
        const uint8_t* from = datagram + MAC + taken;
        if (more < 128) {
            std::memset(block, 0, 128), std::memcpy(block, from, more);
            from = block;
        }
        taken += more;
        compress(h, from, 128 + taken, taken == total);
    }
    return h[0];  // in memory order, as hashlib gives it on a little-endian machine
}

template <class T>
void put(uint8_t*& at, T value) {
    for (int shift = 8 * (sizeof(T) - 1); shift >= 0; shift -= 8) *at++ = uint8_t(value >> shift);
}

template <class T>
T get(const uint8_t*& at) {
    T value = 0;
    for (size_t i = 0; i < sizeof(T); i++) value = T(value << 8) | *at++;
    return value;
}

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

void sleep_until(double due) {
    timespec t{time_t(due), long((due - std::floor(due)) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {}
}

}  // namespace

extern "C" {

struct Sender {
    int32_t fd, value_bytes;
    uint32_t run, rank;
    const uint8_t* keys;         // [n][32]
    const sockaddr_in* addresses;  // [n]
    int64_t planned;             // datagrams in the plan
    const int32_t* to;
    const uint16_t* tensor;
    const uint32_t* offset;
    const uint16_t* count;
    const int64_t* at;
    double rate;  // bytes a second; infinite for none
    double burst, tokens, last;
};

struct Receiver {
    int32_t fd, value_bytes;
    uint32_t run, rank, n, per_chunk;
    const uint8_t* keys;  // [n][32]
    int64_t tensors, width, chunks;
    const int64_t *sizes, *starts, *first_chunks;
    uint8_t *values, *marks;  // [2][n][width * value_bytes], [2][n][chunks]
    int64_t* arrived;         // [2][n]
    uint8_t* ended;           // [2][n]
    int64_t* counted;         // by Fate
};

// Waits until `size` bytes may go; false when that is not before `until`.
static bool pace(Sender* s, double size, double until) {
    double t = now();
    if (std::isinf(s->rate)) return t < until;
    for (;;) {
        s->tokens = std::min(s->burst, s->tokens + (t - s->last) * s->rate);
        s->last = t;
        if (s->tokens >= size - 1) break;
        const double due = t + (size - s->tokens) / s->rate;
        if (due >= until) return false;
        sleep_until(due);
        t = now();
    }
    s->tokens -= size;
    return t < until;
}

static int seal(const Sender* s, uint32_t step, const uint8_t* const* vectors, int64_t k, uint8_t* out) {
    const uint8_t* start = out;
    const int size = s->count[k] * s->value_bytes;
    put(out, MAGIC), put(out, VERSION);
    put(out, uint8_t((s->value_bytes == 2 ? HALF : 0) | (s->count[k] ? 0 : END)));
    put(out, s->run), put(out, step), put(out, uint16_t(s->rank)), put(out, s->tensor[k]);
    put(out, s->offset[k]), put(out, s->count[k]);
    if (size) std::memcpy(out + MAC, vectors[s->to[k]] + s->at[k], size);
    const uint64_t code = mac(s->keys + KEY * s->to[k], start, OVERHEAD + size);
    std::memcpy(out, &code, MAC);
    return OVERHEAD + size;
}

// Sends a step's vectors by the plan; how many datagrams were handed to the network before `until`.
int64_t udp_send(Sender* s, uint32_t step, const uint8_t* const* vectors, const uint8_t* skip, double until) {
    static thread_local uint8_t buffer[BATCH][MOST];
    mmsghdr messages[BATCH];
    iovec parts[BATCH];
    // A wake-up costs as much as several datagrams, a burst may overflow a small queue: a millisecond's bytes at once.
    const double at_once = std::isinf(s->rate) ? HUGE_VAL : std::min(s->burst / 4, s->rate * 1e-3);
    int64_t sent = 0;
    for (int64_t k = 0; k < s->planned;) {
        int filled = 0;
        double bytes = 0;
        while (k < s->planned && filled < BATCH && (filled == 0 || bytes + MOST + LINK <= at_once)) {
            if (skip && skip[k]) {
                k++;
                continue;
            }
            const int size = seal(s, step, vectors, k, buffer[filled]);
            parts[filled] = {buffer[filled], size_t(size)};
            messages[filled] = {};
            messages[filled].msg_hdr.msg_name = const_cast<sockaddr_in*>(s->addresses + s->to[k]);
            messages[filled].msg_hdr.msg_namelen = sizeof(sockaddr_in);
            messages[filled].msg_hdr.msg_iov = parts + filled;
            messages[filled].msg_hdr.msg_iovlen = 1;
            bytes += size + LINK;
            filled++, k++;
        }
        if (!filled) break;
        if (!pace(s, bytes, until)) return sent;
        for (int done = 0; done < filled;) {
            const int went = sendmmsg(s->fd, messages + done, filled - done, 0);
            if (went > 0) {
                done += went, sent += went;
            } else if (errno != EINTR) {
                done++;  // a full queue or a receiver that is gone is one more loss
            }
        }
    }
    return sent;
}

static Fate judge(Receiver* r, uint32_t step, const uint8_t* data, int size) {
    if (size < OVERHEAD || size > MOST) return FOREIGN;
    const uint8_t* at = data;
    if (get<uint16_t>(at) != MAGIC || get<uint8_t>(at) != VERSION) return FOREIGN;
    const uint8_t flags = get<uint8_t>(at);
    const uint32_t run = get<uint32_t>(at), of_step = get<uint32_t>(at);
    const uint16_t rank = get<uint16_t>(at), tensor = get<uint16_t>(at);
    const uint32_t offset = get<uint32_t>(at);
    const uint16_t count = get<uint16_t>(at);
    const int length = size - OVERHEAD;
    if (run != r->run || rank >= r->n || rank == r->rank) return FOREIGN;
    if (((flags & HALF) != 0) != (r->value_bytes == 2) || (flags & ~(HALF | END))) return FOREIGN;
    const bool ends = flags & END;
    if (ends && (tensor || offset || count || length)) return FOREIGN;
    if (!ends) {
        if (tensor >= r->tensors || count == 0 || offset % r->per_chunk) return FOREIGN;
        if (count != std::min<int64_t>(r->per_chunk, r->sizes[tensor] - int64_t(offset))) return FOREIGN;
        if (length != count * r->value_bytes) return FOREIGN;
    }
    const uint64_t code = mac(r->keys + KEY * rank, data, size);
    if (std::memcmp(&code, data + HEADER, MAC)) return FORGED;
    const uint32_t ahead = of_step - step;
    if (ahead > 1) return ahead >= 0x80000000u ? LATE : EARLY;
    const int64_t row = (of_step & 1) * int64_t(r->n) + rank;
    if (ends) {
        const bool before = r->ended[row];
        r->ended[row] = 1;
        return before ? REPEATED : TAKEN;
    }
    uint8_t& mark = r->marks[row * r->chunks + r->first_chunks[tensor] + offset / r->per_chunk];
    if (mark) return REPEATED;
    const int64_t place = row * r->width + r->starts[tensor] + offset;
    std::memcpy(r->values + place * r->value_bytes, data + OVERHEAD, length);
    mark = 1;
    r->arrived[row]++;
    return TAKEN;
}

// Takes up to `most` datagrams that wait, without waiting for more; how many there were.
int64_t udp_receive(Receiver* r, uint32_t step, int64_t most) {
    constexpr int LONGEST = 2048;  // more than a datagram of ours, so that a longer one is seen to be foreign
    static thread_local uint8_t buffer[BATCH][LONGEST];
    mmsghdr messages[BATCH];
    iovec parts[BATCH];
    int64_t total = 0;
    while (total < most) {
        const int room = int(std::min<int64_t>(BATCH, most - total));
        for (int i = 0; i < room; i++) {
            parts[i] = {buffer[i], LONGEST};
            messages[i] = {};
            messages[i].msg_hdr.msg_iov = parts + i;
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        const int came = recvmmsg(r->fd, messages, room, MSG_DONTWAIT, nullptr);
        if (came < 0 && errno == EINTR) continue;
        if (came <= 0) break;
        for (int i = 0; i < came; i++) r->counted[judge(r, step, buffer[i], int(messages[i].msg_len))]++;
        total += came;
        if (came < room) break;
    }
    return total;
}

// The MAC of one datagram, for tests.
uint64_t udp_mac(const uint8_t* key, const uint8_t* datagram, int64_t size) { return mac(key, datagram, int(size)); }

}  // extern "C"
