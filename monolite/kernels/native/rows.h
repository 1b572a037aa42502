/* Rows of floats: norms, softmax, rotary positions, gates. Any width; pointers of any alignment. */
#ifndef ROWS_H
#define ROWS_H

#include <math.h>

#include "simd.h"

/* for i = 0, LANES … below count, with n, how many of these LANES there are */
#define EACH_VECTOR(i, n, count)                                           \
    for (int i = 0, n = (count) < LANES ? (count) : LANES; i < (count);    \
         i += LANES, n = (count) - i < LANES ? (count) - i : LANES)

/* y = x / sqrt(mean(x x) + epsilon) * weight (Zhang and Sennrich 2019); y may be x. */
static void rms_norm(const float *x, int64_t count, int32_t width, const float *weight, float epsilon, float *y) {
    for (; count > 0; count--, x += width, y += width) {
        vf squares = splat(0);
        EACH_VECTOR(i, n, width) {
            vf v = load_some(x + i, n);
            squares += v * v;
        }
        float inverse = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
        EACH_VECTOR(i, n, width) store_some(y + i, load_some(x + i, n) * inverse * load_some(weight + i, n), n);
    }
}

/* y = (x - mean) / sqrt(variance + epsilon) * weight + bias (Ba et al. 2016); y may be x. */
static void layer_norm(const float *x, int64_t count, int32_t width, const float *weight, const float *bias,
                       float epsilon, float *y) {
    for (; count > 0; count--, x += width, y += width) {
        vf total = splat(0), squares = splat(0);
        EACH_VECTOR(i, n, width) total += load_some(x + i, n);
        float mean = sum(total) / (float)width;
        EACH_VECTOR(i, n, width) {
            vf v = only(load_some(x + i, n) - mean, n);
            squares += v * v;
        }
        float inverse = 1.0f / sqrtf(sum(squares) / (float)width + epsilon);
        EACH_VECTOR(i, n, width)
        store_some(y + i, (load_some(x + i, n) - mean) * inverse * load_some(weight + i, n) + load_some(bias + i, n), n);
    }
}

/* e^(x - most of x) in place; what is beyond n lanes of the last vector counts for nothing. Returns the
 * sum of the powers, and in *greatest what was taken off. */
INLINE float powers_from(float *x, int count, float *greatest) {
    vf most = splat(-INFINITY), total = splat(0);
    EACH_VECTOR(i, n, count) most = vmax(most, n < LANES ? only_or(load_some(x + i, n), splat(-INFINITY), n) : load(x + i));
    float top = highest(most);
    EACH_VECTOR(i, n, count) {
        vf e = only(vexp(load_some(x + i, n) - top), n);
        store_some(x + i, e, n);
        total += e;
    }
    *greatest = top;
    return sum(total);
}
INLINE float powers(float *x, int count) {
    float greatest;
    return powers_from(x, count, &greatest);
}

static void softmax(float *x, int64_t count, int32_t width) {
    for (; count > 0; count--, x += width) {
        float inverse = 1.0f / powers(x, width);
        EACH_VECTOR(i, n, width) store_some(x + i, load_some(x + i, n) * inverse, n);
    }
}

/* Rotary positions (Su et al. 2021): of each head, value a of pair p becomes a cos - b sin, and b
 * becomes b cos + a sin. x [count, heads, width] in place; cosine, sine [count, width / 2]. Pairs are
 * (p, p + width / 2), or with `neighbours` (2 p, 2 p + 1). */
static void rotate(float *x, int64_t count, int32_t heads, int32_t width, const float *cosine, const float *sine,
                   int32_t neighbours) {
    const int half = width / 2;
    for (; count > 0; count--, cosine += half, sine += half)
        for (int h = 0; h < heads; h++, x += width) {
            if (neighbours) {
                for (int p = 0; p < half; p++) {
                    float a = x[2 * p], b = x[2 * p + 1];
                    x[2 * p] = a * cosine[p] - b * sine[p];
                    x[2 * p + 1] = b * cosine[p] + a * sine[p];
                }
                continue;
            }
            EACH_VECTOR(p, n, half) {
                vf a = load_some(x + p, n), b = load_some(x + half + p, n);
                vf c = load_some(cosine + p, n), s = load_some(sine + p, n);
                store_some(x + p, a * c - b * s, n);
                store_some(x + half + p, b * c + a * s, n);
            }
        }
}

/* Each row [count, width] times a Hadamard matrix, Sylvester's of the largest power of two that divides
 * the width, a block after the other: products of two rows stay, and large values are spread. In place. */
INLINE void spread(float *x, int64_t count, int width) {
    const int block = width & -width;
    const float scale = 1.0f / sqrtf((float)block);
    for (float *end = x + count * width; x < end; x += block) {
        int step = 1;
#if !defined(__clang__)
        for (int i = 0; block >= LANES && i < block; i += LANES) {
            vf v = load(x + i);
            for (int near = 1; near < LANES; near *= 2) {
                vi other = lane_numbers() ^ near, second = (lane_numbers() & near) != 0;
                v = __builtin_shuffle(v, other) + (vf)((vi)v ^ (second & (int32_t)0x80000000));
            }
            store(x + i, v);
        }
        if (block >= LANES) step = LANES;
#endif
        for (; step < block; step *= 2)
            for (int i = 0; i < block; i += 2 * step)
                for (int j = i; j < i + step; j++) {
                    float a = x[j], b = x[j + step];
                    x[j] = a + b, x[j + step] = a - b;
                }
        for (int i = 0; i < block; i++) x[i] *= scale;
    }
}

/* gate = silu(gate) * up (Shazeer 2020), [count] */
static void gate(float *x, const float *up, int64_t count) {
    for (int64_t at = 0; at < count; at += LANES) {
        int n = count - at < LANES ? (int)(count - at) : LANES;
        store_some(x + at, vsilu(load_some(x + at, n)) * load_some(up + at, n), n);
    }
}

#endif
