/* Compiled once for each variant, with its instructions and -DVARIANT=its name. */
#include "variant.h"

#include "blocks.h"
#include "cache.h"
#include "decoder.h"
#include "encoder.h"
#include "rows.h"
#include "scan.h"

typedef struct {
    const Linear *weights;
    const float *x;
    int32_t count, activation;
    float *y, *step;
    int32_t *total;
    int8_t *q;
    Step steps[2];
} LinearJob;

static void linear_job(void *job, int worker) {
    LinearJob *j = job;
    const int pieces = j->weights->rows / TILE_COLUMNS, columns = j->weights->columns;
    (void)worker;
    STEP(&j->steps[0], j->count, r)
    quantize_row(j->x + (int64_t)r * columns, j->weights->smooth, columns, columns,
                 j->q + (int64_t)r * columns, j->step + r, j->total + r);
    step_wait(&j->steps[0], j->count);
    STEP(&j->steps[1], pieces, p)
    linear_piece(j->weights, p, j->q, j->step, j->total, j->count, j->y, j->weights->rows,
                 j->activation, 0);
    step_wait(&j->steps[1], pieces);
}

static int linear(const Linear *weights, const float *x, int32_t count, int32_t activation, float *y) {
    const size_t rows = (size_t)count;
    char *scratch = malloc(rows * (8 + (size_t)weights->columns) + 1);
    if (!scratch) return 0;
    LinearJob job = {.weights = weights, .x = x, .count = count, .activation = activation, .y = y};
    job.step = (float *)scratch;
    job.total = (int32_t *)(scratch + 4 * rows);
    job.q = (int8_t *)(scratch + 8 * rows);
    pool_run(linear_job, &job);
    free(scratch);
    return 1;
}

#define QUOTE_(x) #x
#define QUOTE(x) QUOTE_(x)
#define NAME__(x) variant_##x
#define NAME_(x) NAME__(x)

const Variant NAME_(VARIANT) = {
    QUOTE(VARIANT), encode,     linear,  quantize, signs, search, dot_rows,
    blocks,         rms_norm,   layer_norm, softmax, rotate, gate, append, attend_to_cache,
    decode,
};
