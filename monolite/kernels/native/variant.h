/* The kernels of one variant: variant.c fills the table, dispatch.c chooses one. */
#ifndef VARIANT_H
#define VARIANT_H

#include "kernels.h"

typedef struct {
    const char *name;
    int (*encode)(const Encoder *, const int32_t *, const int32_t *, int32_t, float *);
    int (*linear)(const Linear *, const float *, int32_t, int32_t, float *);
    void (*quantize)(const float *, int64_t, int32_t, int32_t, uint8_t *, float *);
    void (*signs)(const float *, int64_t, int64_t, int32_t, uint64_t *);
    int64_t (*search)(const Rows *, const float *, int64_t, int64_t, int64_t *, float *);
    void (*dot)(const float *, int64_t, int32_t, const float *, float *);
    int (*blocks)(const Blocks *, const float *, int32_t, int32_t, int32_t, float *);
    void (*rms_norm)(const float *, int64_t, int32_t, const float *, float, float *);
    void (*layer_norm)(const float *, int64_t, int32_t, const float *, const float *, float, float *);
    void (*softmax)(float *, int64_t, int32_t);
    void (*rotate)(float *, int64_t, int32_t, int32_t, const float *, const float *, int32_t);
    void (*gate)(float *, const float *, int64_t);
    void (*append)(const Cache *, int64_t, int64_t, const float *, const float *);
    void (*attend)(const Cache *, const float *, int32_t, int32_t, const int64_t *, float *);
    int (*decode)(const Decoder *, const DecoderSpan *, int32_t, float *, const float *, const float *,
                  const int32_t *, int32_t, float *);
} Variant;

#endif
