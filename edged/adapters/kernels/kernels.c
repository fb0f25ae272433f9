/* The layers of a network, forward and backward, for float32 and channels last.
 *
 * Everything is made of one microkernel: a few rows of a matrix product, accumulated in registers, whose factors lie
 * wherever two tables of offsets say. So patches are never gathered, whatever kernel, stride and padding. The tables
 * come from Python, which knows the geometry; here is none. Python also checks all shapes, types and sizes: a function
 * trusts its arguments.
 *
 * Bits: each element of a result has one accumulator, to which its terms are added in an order that neither the width
 * of a vector nor the number of threads changes; a * b + c is one operation exactly where `mul_add` says so (compile
 * with -ffp-contract=off). So AVX-512, AVX2 and NEON compute the same bits. A change of that order is a new NUMERICS.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

#define ABI 3      /* of the functions, structs and numbers (TERMS, ROWS) that Python knows */
#define NUMERICS 1 /* of the results' bits */

/* ------------------------------------------------------------------------------------------------------- vectors */

#if defined(__AVX512F__)
#include <immintrin.h>
#define V 16 /* floats in a vector */
#define MR 12 /* rows and */
#define NV 2 /* vectors of a product that are accumulated in registers */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define V 8
#define MR 6
#define NV 2
#elif defined(__aarch64__)
#include <arm_neon.h>
#define V 4
#define MR 8
#define NV 2
#else
#error "a processor with fused multiply-add is needed"
#endif

typedef float vec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * V), aligned(4), may_alias));
typedef uint8_t bvec __attribute__((vector_size(V), aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; } /* the compiler may not fold 0 + x, which is not x for -0 */
INLINE vec zero(void) { return (vec){0}; }

/* The first n < V elements; nothing else is read or written. */
#if defined(__AVX512F__)
INLINE vec mul_add(vec a, vec b, vec c) { return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vec root_of(vec x) { return (vec)_mm512_sqrt_ps((__m512)x); }
INLINE vec load_few(const float *p, int n) { return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
INLINE void store_few(float *p, vec v, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v); }
#elif defined(__AVX2__)
static const int32_t first[2 * V] = {-1, -1, -1, -1, -1, -1, -1, -1};
INLINE __m256i mask_of(int n) { return _mm256_loadu_si256((const __m256i *)(first + V - n)); }
INLINE vec mul_add(vec a, vec b, vec c) { return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vec root_of(vec x) { return (vec)_mm256_sqrt_ps((__m256)x); }
INLINE vec load_few(const float *p, int n) { return (vec)_mm256_maskload_ps(p, mask_of(n)); }
INLINE void store_few(float *p, vec v, int n) { _mm256_maskstore_ps(p, mask_of(n), (__m256)v); }
#else
INLINE vec mul_add(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vec root_of(vec x) { return (vec)vsqrtq_f32((float32x4_t)x); }
INLINE vec load_few(const float *p, int n) {
    vec v = {0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
INLINE void store_few(float *p, vec v, int n) {
    for (int i = 0; i < n; i++) p[i] = v[i];
}
#endif
INLINE vec load_some(const float *p, long n) { return n >= V ? load(p) : load_few(p, (int)n); }
INLINE void store_some(float *p, vec v, long n) {
    if (n >= V) store(p, v);
    else store_few(p, v, (int)n);
}

INLINE vec where(ivec mask, vec a) { return (vec)((ivec)a & mask); }
INLINE vec pick(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* Which of a pooling window's outputs was the maximum, a byte each; CLOSED: the activation lets nothing back. */
enum { CLOSED = 255 };
INLINE ivec load_places(const uint8_t *p, long n) {
    bvec some = {0};
    if (n >= V) some = *(const bvec *)p;
    else
        for (int i = 0; i < n; i++) some[i] = p[i];
    return __builtin_convertvector(some, ivec);
}
INLINE void store_places(uint8_t *p, ivec places, long n) {
    const bvec some = __builtin_convertvector(places, bvec);
    if (n >= V) *(bvec *)p = some;
    else
        for (int i = 0; i < n; i++) p[i] = some[i];
}

enum { LINEAR, RELU, RELU6 };
INLINE vec activated(vec x, int activation) { /* NaN stays NaN */
    if (activation != LINEAR) x = where(~(x <= zero()), x);
    if (activation == RELU6) x = pick(x > splat(6), splat(6), x);
    return x;
}
INLINE ivec passes(vec y, int activation) { /* whether a gradient passes back where the output is y */
    ivec open = {0};
    if (activation == LINEAR) return ~open;
    open = y > zero();
    if (activation == RELU6) open &= y < splat(6);
    return open;
}

/* ------------------------------------------------------------------------------------------------------- product */

enum {
    TERMS = 256, /* of a sum that are added up before they join the rest: exactness, and a strip of b stays in L1 */
    ROWS = 48    /* of a that stay in L2 meanwhile */
};
enum { SET, ADD };

/* c[i][j] = [c[i][j] +] init[j] + sum over k < n of a[i][ia[k]] * b[ib[k]][j], for mr rows and nv vectors of columns.
 * `last`: columns of the last vector, when it is not full. */
INLINE void micro(const int mr, const int nv, const int last, const float *const *a, const int32_t *ia, const float *b,
                  const int32_t *ib, long n, const float *init, float *const *c, int how, int activation) {
    vec sum[MR][NV];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
        const vec first = !init ? zero() : last && j == nv - 1 ? load_few(init + j * V, last) : load(init + j * V);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) sum[i][j] = first;
    }
    for (long k = 0; k < n; k++) {
        const long at = ia[k];
        const float *row = b + ib[k];
        vec factor[NV];
#pragma GCC unroll 4
        for (int j = 0; j < nv; j++)
            factor[j] = last && j == nv - 1 ? load_few(row + j * V, last) : load(row + j * V);
#pragma GCC unroll 16
        for (int i = 0; i < mr; i++) {
            const vec x = splat(a[i][at]);
#pragma GCC unroll 4
            for (int j = 0; j < nv; j++) sum[i][j] = mul_add(x, factor[j], sum[i][j]);
        }
    }
#define EACH                                                                                                           \
    _Pragma("GCC unroll 16") for (int i = 0; i < mr; i++) _Pragma("GCC unroll 4") for (int j = 0; j < nv; j++)
#define COLUMNS_OF(j) (last && (j) == nv - 1 ? last : V)
    if (how == ADD) EACH sum[i][j] = load_some(c[i] + j * V, COLUMNS_OF(j)) + sum[i][j];
    if (activation == RELU) EACH sum[i][j] = activated(sum[i][j], RELU);
    if (activation == RELU6) EACH sum[i][j] = activated(sum[i][j], RELU6);
    EACH store_some(c[i] + j * V, sum[i][j], COLUMNS_OF(j));
}

/* The same for any number of rows and columns. Row i of a begins at a + ra[i], of c at c + (rc ? rc[i] : i * ldc). */
#define CASE(mr, nv)                                                                                                   \
    case (mr) * 4 + (nv):                                                                                              \
        if (last) micro(mr, nv, last, ai, ia, bj, ib, n, initj, ci, how, activation);                                  \
        else micro(mr, nv, 0, ai, ia, bj, ib, n, initj, ci, how, activation);                                          \
        break;
static void block(long m, const float *a, const int32_t *ra, const int32_t *ia, const float *b, const int32_t *ib,
                  long n, long columns, const float *init, float *c, const int32_t *rc, long ldc, int how,
                  int activation) {
    for (long j = 0; j < columns; j += NV * V) {
        const long left = columns - j;
        const int nv = left >= NV * V ? NV : (int)((left + V - 1) / V), last = left >= NV * V ? 0 : (int)(left % V);
        const float *bj = b + j, *initj = init ? init + j : 0;
        for (long i = 0; i < m; i += MR) {
            const int mr = m - i >= MR ? MR : (int)(m - i);
            const float *ai[MR];
            float *ci[MR];
            for (int r = 0; r < mr; r++) {
                ai[r] = a + ra[i + r];
                ci[r] = c + j + (rc ? rc[i + r] : (i + r) * ldc);
            }
            switch (mr * 4 + nv) {
                CASE(1, 1) CASE(2, 1) CASE(3, 1) CASE(4, 1) CASE(5, 1) CASE(6, 1)
                CASE(1, 2) CASE(2, 2) CASE(3, 2) CASE(4, 2) CASE(5, 2) CASE(6, 2)
#if MR >= 8
                CASE(7, 1) CASE(8, 1) CASE(7, 2) CASE(8, 2)
#endif
#if MR >= 12
                CASE(9, 1) CASE(10, 1) CASE(11, 1) CASE(12, 1) CASE(9, 2) CASE(10, 2) CASE(11, 2) CASE(12, 2)
#endif
            }
        }
    }
}

static void product(long m, const float *a, const int32_t *ra, const int32_t *ia, const float *b, const int32_t *ib,
                    long n, long columns, const float *init, float *c, const int32_t *rc, long ldc, int how,
                    int activation) {
    for (long i = 0; i < m; i += ROWS) {
        const long rows = m - i < ROWS ? m - i : ROWS;
        long k = 0;
        do { /* once at least: an empty sum is zero */
            const long terms = n - k < TERMS ? n - k : TERMS;
            block(rows, a, ra + i, ia + k, b, ib + k, terms, columns, k ? 0 : init, rc ? c : c + i * ldc,
                  rc ? rc + i : 0, ldc, k ? ADD : how, k + terms < n ? LINEAR : activation);
            k += terms;
        } while (k < n);
    }
}

/* For what Python multiplies: c [m, columns] = or += rows of a, found by the tables, times rows of b. */
EXPORT void edged_matrix(long m, const float *a, const int32_t *ra, const int32_t *ia, const float *b,
                         const int32_t *ib, long n, long columns, float *c, long ldc, int how) {
    product(m, a, ra, ia, b, ib, n, columns, 0, c, 0, ldc, how, LINEAR);
}

/* ------------------------------------------------------------------------- activation and pooling, and the way back */

/* Keep the larger of the best so far and of the other, number i of its window, and its number; NaN is the largest. */
INLINE void keep_larger(vec *best, ivec *place, vec other, int i) {
    const ivec over = (other > *best) | (other != other);
    *best = pick(over, other, *best);
    *place = (i & over) | (*place & ~over);
}

/* A window's maximum, activated, to y; where in the window it was found, to `places`. */
INLINE void store_largest(vec best, ivec place, int activation, float *y, uint8_t *places, long n) {
    const ivec open = passes(best, activation);
    store_some(y, activated(best, activation), n);
    store_places(places, (place & open) | (CLOSED & ~open), n);
}

/* The maxima of windows of `size` rows of x each, activated, and where in its window each was first found. */
static void pool(long windows, int size, long columns, const float *x, float *y, uint8_t *places, int activation) {
    for (long k = 0; k < windows; k++, x += size * columns, y += columns, places += columns)
        for (long j = 0; j < columns; j += V) {
            const long left = columns - j;
            vec best = load_some(x + j, left);
            ivec place = {0};
            for (int i = 1; i < size; i++) keep_larger(&best, &place, load_some(x + i * columns + j, left), i);
            store_largest(best, place, activation, y + j, places + j, left);
        }
}

/* Gradients dy of the rows of y, where activation and pooling let them through, to their places in g, at the offsets
 * `at`, or null: each row to its own; of a window of `size` outputs, to the maximum, the others get zero. The sum over
 * all rows is added to dbias. */
INLINE void columns_back(const int size, const int few, long windows, long columns, const float *dy, const float *y,
                         const uint8_t *places, int activation, float *g, const int32_t *at, float *dbias) {
    const int some = few ? few : V;
    vec sum = {0};
    for (long k = 0; k < windows; k++, dy += columns, y += columns) {
        vec d = load_some(dy, some);
        if (size > 1) {
            const ivec place = load_places(places + k * columns, some);
            d = where(place != CLOSED, d);
            for (int i = 0; i < size; i++) store_some(g + at[k * size + i], where(place == i, d), some);
        } else {
            d = where(passes(load_some(y, some), activation), d);
            store_some(g + (at ? at[k] : k * columns), d, some);
        }
        sum += d;
    }
    store_some(dbias, load_some(dbias, some) + sum, some);
}

static void back_through(long windows, int size, long columns, const float *dy, const float *y, const uint8_t *places,
                         int activation, float *g, const int32_t *at, float *dbias) {
#define COLUMNS(size, few)                                                                                             \
    columns_back(size, few, windows, columns, dy + j, y + j, places ? places + j : 0, activation, g + j, at, dbias + j)
    for (long j = 0; j < columns; j += V) {
        const int few = columns - j < V ? (int)(columns - j) : 0;
        if (few) COLUMNS(size, few);
        else if (size == 1) COLUMNS(1, 0);
        else if (size == 2) COLUMNS(2, 0);
        else if (size == 4) COLUMNS(4, 0);
        else COLUMNS(size, 0);
    }
}

/* --------------------------------------------------------------------------------------------------- dense layers */

/* y = activation(x W + b) for rows of `inputs` values. Also a convolution with a 1x1 kernel, of all pixels at once. */
typedef struct {
    int32_t inputs, units, activation;
    const int32_t *by_input;    /* multiples of inputs: as many as there are units, and TERMS at least */
    const int32_t *by_unit;     /* multiples of units: as many as there are inputs, and TERMS at least */
    const int32_t *ones;        /* 0, 1, 2, ...: as many as either */
    const float *w, *bias, *wt; /* [inputs, units], [units], [units, inputs] */
    float *dw, *dbias, *y, *dx; /* dx may be null, as in all layers */
} Dense;

static void dense_forward(const Dense *d, long n, const float *x) {
    for (long i = 0; i < n; i += TERMS) {
        const long rows = n - i < TERMS ? n - i : TERMS;
        product(rows, x + i * d->inputs, d->by_input, d->ones, d->w, d->by_unit, d->inputs, d->units, d->bias,
                d->y + i * d->units, 0, d->units, SET, d->activation);
    }
}

static void dense_backward(const Dense *d, long n, const float *x, float *dy) {
    for (long i = 0; i < n; i += TERMS) {
        const long rows = n - i < TERMS ? n - i : TERMS;
        float *g = dy + i * d->units;
        back_through(rows, 1, d->units, g, d->y + i * d->units, 0, d->activation, g, 0, d->dbias);
        product(d->inputs, x + i * d->inputs, d->ones, d->by_input, g, d->by_unit, rows, d->units, 0, d->dw, 0,
                d->units, ADD, LINEAR);
        if (d->dx)
            product(rows, g, d->by_unit, d->ones, d->wt, d->by_input, d->units, d->inputs, 0, d->dx + i * d->inputs, 0,
                    d->inputs, SET, LINEAR);
    }
}

/* ---------------------------------------------------------------------------------------------------- convolution */

/* Pixels of the input that meet the same elements of the kernel: those of one remainder modulo the strides. */
typedef struct {
    int32_t pixels, taps;
    const int32_t *at_g, *at_dx;  /* [pixels] where the kernel's first element meets the map of gradients; the pixel */
    const int32_t *tap_g, *tap_w; /* [taps] from there to a tap's gradient; the tap's weights in wt */
} Group;

typedef struct {
    int32_t channels, filters, taps; /* taps: kernel rows * columns * channels */
    int32_t outputs, window;         /* outputs: before pooling; of a window one after the other */
    int32_t activation, num_groups;
    int32_t lines, line;                 /* the input: how many, how many floats each */
    int32_t padded_line, padded_first;   /* the same with padding, and where in it the input begins */
    const int32_t *at_x, *at_g;          /* [outputs] where an output's patch begins; where its gradient is in g */
    const int32_t *tap_x, *tap_w;        /* [taps] where a tap lies in a patch; its weights in w */
    const Group *groups;
    const float *w, *bias, *wt; /* [taps, filters], [filters], [kernel rows * columns, filters, channels] */
    float *dw, *dbias, *y, *dx;
    uint8_t *places;              /* [n, windows, filters] when window > 1 */
    float *padded, *g, *products; /* of one sample; null: none is needed. g null: gradients stay where they are */
} Conv;

static const float *pad(const float *x, float *padded, long lines, long line, long padded_line, long padded_first) {
    if (!padded) return x;
    for (long i = 0; i < lines; i++) memcpy(padded + padded_first + i * padded_line, x + i * line, 4 * (size_t)line);
    return padded;
}

static void conv_forward(const Conv *c, long n, const float *x) {
    const long windows = c->outputs / c->window, size = c->window, most = ROWS / size > 0 ? ROWS / size : 1;
    float *y = c->y;
    uint8_t *places = c->places;
    for (long s = 0; s < n; s++, x += c->lines * (long)c->line, y += windows * c->filters) {
        const float *xp = pad(x, c->padded, c->lines, c->line, c->padded_line, c->padded_first);
        if (size == 1) {
            product(windows, xp, c->at_x, c->tap_x, c->w, c->tap_w, c->taps, c->filters, c->bias, y, 0, c->filters, SET,
                    c->activation);
            continue;
        }
        for (long k = 0; k < windows; k += most) {
            const long some = windows - k < most ? windows - k : most;
            product(some * size, xp, c->at_x + k * size, c->tap_x, c->w, c->tap_w, c->taps, c->filters, c->bias,
                    c->products, 0, c->filters, SET, LINEAR);
            pool(some, (int)size, c->filters, c->products, y + k * c->filters, places + k * c->filters, c->activation);
        }
        places += windows * c->filters;
    }
}

static void conv_backward(const Conv *c, long n, const float *x, float *dy) {
    const long windows = c->outputs / c->window, results = windows * c->filters, inputs = c->lines * (long)c->line;
    for (long s = 0; s < n; s++, x += inputs, dy += results) {
        const float *xp = pad(x, c->padded, c->lines, c->line, c->padded_line, c->padded_first);
        float *g = c->g ? c->g : dy;
        back_through(windows, c->window, c->filters, dy, c->y + s * results,
                     c->window > 1 ? c->places + s * results : 0, c->activation, g, c->at_g, c->dbias);
        product(c->taps, xp, c->tap_x, c->at_x, g, c->at_g, c->outputs, c->filters, 0, c->dw, 0, c->filters, ADD,
                LINEAR);
        if (!c->dx) continue;
        for (int i = 0; i < c->num_groups; i++) {
            const Group *p = c->groups + i;
            product(p->pixels, g, p->at_g, p->tap_g, c->wt, p->tap_w, p->taps, c->channels, 0, c->dx + s * inputs,
                    p->at_dx, 0, SET, LINEAR);
        }
    }
}

/* ------------------------------------------------------------------------------------ convolution by Winograd's way
 *
 * Lavin and Gray 2015, https://arxiv.org/abs/1509.09308. A tile of inputs x and the kernel w are transformed to
 * `points` values v and u each, whose products, summed over the channels, are transformed back to the outputs:
 *     SQUARE  F(2x2, 3x3): 16 products for 4 outputs of 9 terms; the points are 0, 1, -1 and infinity on both axes
 *     LINE    F(m, 7 - m) along a series: 6 products for m outputs; the points are 0, 1, -1, 2, -2 and infinity
 * Python transforms the kernels and their gradients.
 */
enum { SQUARE = 16, LINE = 6 };
enum { MAX_OUTPUTS = 5 };

INLINE void line4(vec *x, const int step) {
    const vec x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step];
    x[0] = x0 - x2, x[step] = x1 + x2, x[2 * step] = x2 - x1, x[3 * step] = x3 - x1;
}
INLINE void line4_back(vec *v, const int step) {
    const vec v0 = v[0], v1 = v[step], v2 = v[2 * step], v3 = v[3 * step];
    v[step] = v1 - v2 - v3, v[2 * step] = v1 + v2 - v0;
}

INLINE void transform(const int points, vec *x) {
    if (points == SQUARE) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) line4(x + i, 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) line4(x + 4 * i, 1);
        return;
    }
    const vec two = splat(2), four = splat(4), five = splat(5);
    const vec even = mul_add(-four, x[2], x[4]), odd = mul_add(-four, x[1], x[3]); /* x4 - 4 x2, x3 - 4 x1 */
    const vec half = x[4] - x[2], twice = two * (x[3] - x[1]);
    const vec v0 = mul_add(four, x[0], mul_add(-five, x[2], x[4]));
    const vec v5 = mul_add(four, x[1], mul_add(-five, x[3], x[5]));
    x[0] = v0, x[1] = even + odd, x[2] = even - odd, x[3] = half + twice, x[4] = half - twice, x[5] = v5;
}

INLINE void transform_back(const int points, vec *v) { /* the transpose */
    if (points == SQUARE) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) line4_back(v + i, 4);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) line4_back(v + 4 * i, 1);
        return;
    }
    const vec two = splat(2), four = splat(4), five = splat(5);
    const vec s1 = v[1] + v[2], d1 = v[1] - v[2], s2 = v[3] + v[4], d2 = two * (v[3] - v[4]);
    const vec x0 = four * v[0], x2 = -mul_add(five, v[0], mul_add(four, s1, s2)), x4 = v[0] + s1 + s2;
    const vec x1 = mul_add(four, v[5] - d1, -d2), x3 = mul_add(-five, v[5], d1 + d2);
    v[0] = x0, v[1] = x1, v[2] = x2, v[3] = x3, v[4] = x4;
}

INLINE void to_outputs(const int points, const int outputs, const vec *m, vec *y) {
    if (points == SQUARE) {
        vec r[8];
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            r[j] = m[j] + m[4 + j] + m[8 + j];
            r[4 + j] = m[12 + j] + m[4 + j] - m[8 + j];
        }
#pragma GCC unroll 2
        for (int i = 0; i < 2; i++) {
            y[2 * i] = r[4 * i] + r[4 * i + 1] + r[4 * i + 2];
            y[2 * i + 1] = r[4 * i + 3] + r[4 * i + 1] - r[4 * i + 2];
        }
        return;
    }
    const vec s1 = m[1] + m[2], d1 = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    y[0] = m[0] + s1 + s2;
    y[1] = mul_add(splat(2), d2, d1);
    if (outputs > 2) y[2] = mul_add(splat(4), s2, s1);
    if (outputs > 3) y[3] = mul_add(splat(8), d2, d1);
    if (outputs > 4) y[4] = mul_add(splat(16), s2, s1);
    y[outputs - 1] += m[5];
}

INLINE void to_outputs_back(const int points, const int outputs, const vec *g, vec *m) { /* the transpose */
    if (points == SQUARE) {
        vec r[8];
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            r[j] = g[j], r[2 + j] = g[j] + g[2 + j];
            r[4 + j] = g[j] - g[2 + j], r[6 + j] = g[2 + j];
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            m[4 * i] = r[2 * i], m[4 * i + 1] = r[2 * i] + r[2 * i + 1];
            m[4 * i + 2] = r[2 * i] - r[2 * i + 1], m[4 * i + 3] = r[2 * i + 1];
        }
        return;
    }
    vec even = g[0], odd = g[1], even2 = g[0], odd2 = splat(2) * g[1];
    if (outputs > 2) even += g[2], even2 = mul_add(splat(4), g[2], even2);
    if (outputs > 3) odd += g[3], odd2 = mul_add(splat(8), g[3], odd2);
    if (outputs > 4) even += g[4], even2 = mul_add(splat(16), g[4], even2);
    m[0] = g[0], m[1] = even + odd, m[2] = even - odd, m[3] = even2 + odd2, m[4] = even2 - odd2, m[5] = g[outputs - 1];
}

typedef struct {
    int32_t channels, filters, points, tiles; /* tiles: of a sample */
    int32_t outputs, window, activation;      /* outputs: of a tile; of a pooling window one after the other */
    int32_t inputs, results, block;           /* floats of a sample, before and after; tiles transformed together */
    const int32_t *at_x;                /* [tiles, points] a tile's inputs; -1: none, zero */
    const int32_t *at_y;                /* [tiles, outputs / window] its results; -1: none, beyond the last */
    const int32_t *by_channel, *by_filter, *ones; /* [channels, filters and block at least] as in Dense */
    const float *u, *bias, *ut; /* [points, channels, filters], [filters], [points, filters, channels] */
    float *du, *dbias, *y, *dx; /* du: the sum since Python set it to zero */
    uint8_t *places;            /* [n, tiles, outputs / window, filters] when window > 1 */
    float *v, *m;               /* [points, block, channels], [points, block, filters] */
    float *zeros, *sink;        /* [channels and filters at least] what is read and written outside a sample */
} Winograd;

INLINE void next(const Winograd *c, long *sample, long *tile) {
    if (++*tile == c->tiles) *tile = 0, ++*sample;
}

/* v of `count` tiles, the first of which is number `begin` of the micro-batch x. */
INLINE void tiles_in(const int points, const Winograd *c, long begin, long count, const float *x) {
    const long plane = (long)c->block * c->channels;
    long sample = begin / c->tiles, tile = begin % c->tiles;
    for (long t = 0; t < count; t++, next(c, &sample, &tile)) {
        const float *p[SQUARE];
        for (int i = 0; i < points; i++) {
            const int32_t at = c->at_x[tile * points + i];
            p[i] = at < 0 ? c->zeros : x + sample * c->inputs + at;
        }
        for (long j = 0; j < c->channels; j += V) {
            const long left = c->channels - j;
            float *to = c->v + t * c->channels + j;
            vec d[SQUARE];
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) d[i] = load_some(p[i] + j, left);
            transform(points, d);
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) store_some(to + i * plane, d[i], left);
        }
    }
}

/* The transpose: adds the gradients in v to those of the inputs. */
INLINE void tiles_in_back(const int points, const Winograd *c, long begin, long count) {
    const long plane = (long)c->block * c->channels;
    long sample = begin / c->tiles, tile = begin % c->tiles;
    for (long t = 0; t < count; t++, next(c, &sample, &tile)) {
        float *p[SQUARE];
        for (int i = 0; i < points; i++) {
            const int32_t at = c->at_x[tile * points + i];
            p[i] = at < 0 ? c->sink : c->dx + sample * c->inputs + at;
        }
        for (long j = 0; j < c->channels; j += V) {
            const long left = c->channels - j;
            const float *from = c->v + t * c->channels + j;
            vec d[SQUARE];
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) d[i] = load_some(from + i * plane, left);
            transform_back(points, d);
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) store_some(p[i] + j, load_some(p[i] + j, left) + d[i], left);
        }
    }
}

INLINE void tiles_out(const int points, const int outputs, const int window, const Winograd *c, long begin,
                      long count) {
    const long plane = (long)c->block * c->filters;
    const int windows = outputs / window;
    long sample = begin / c->tiles, tile = begin % c->tiles;
    for (long t = 0; t < count; t++, next(c, &sample, &tile)) {
        float *p[MAX_OUTPUTS];
        for (int i = 0; i < windows; i++) {
            const int32_t at = c->at_y[tile * windows + i];
            p[i] = at < 0 ? c->sink : c->y + sample * c->results + at;
        }
        for (long j = 0; j < c->filters; j += V) {
            const long left = c->filters - j;
            const float *from = c->m + t * c->filters + j;
            const vec bias = load_some(c->bias + j, left);
            vec m[SQUARE], y[MAX_OUTPUTS];
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) m[i] = load_some(from + i * plane, left);
            to_outputs(points, outputs, m, y);
            if (window == 1) {
#pragma GCC unroll 5
                for (int i = 0; i < outputs; i++) store_some(p[i] + j, activated(y[i] + bias, c->activation), left);
                continue;
            }
#pragma GCC unroll 2
            for (int w = 0; w < windows; w++) {
                vec best = y[w * window];
                ivec place = {0};
#pragma GCC unroll 3
                for (int i = 1; i < window; i++) keep_larger(&best, &place, y[w * window + i], i);
                store_largest(best + bias, place, c->activation, p[w] + j,
                              c->places + ((begin + t) * windows + w) * c->filters + j, left);
            }
        }
    }
}

/* The transpose: the gradients of the products in m, from those of the results; their sum is added to dbias. */
INLINE void tiles_out_back(const int points, const int outputs, const int window, const Winograd *c, long begin,
                           long count, const float *dy) {
    const long plane = (long)c->block * c->filters;
    const int windows = outputs / window;
    for (long j = 0; j < c->filters; j += V) {
        const long left = c->filters - j;
        vec total = {0};
        long sample = begin / c->tiles, tile = begin % c->tiles;
        for (long t = 0; t < count; t++, next(c, &sample, &tile)) {
            vec g[MAX_OUTPUTS], m[SQUARE];
#pragma GCC unroll 5
            for (int w = 0; w < windows; w++) {
                const int32_t at = c->at_y[tile * windows + w];
                const long from = sample * c->results + at + j;
                vec d = at < 0 ? zero() : load_some(dy + from, left);
                if (window == 1) {
                    if (at >= 0) d = where(passes(load_some(c->y + from, left), c->activation), d);
                    g[w] = d;
                } else {
                    const ivec place =
                        load_places(c->places + ((begin + t) * windows + w) * c->filters + j, left);
                    d = where(place != CLOSED, d);
#pragma GCC unroll 4
                    for (int i = 0; i < window; i++) g[w * window + i] = where(place == i, d);
                }
                total += d;
            }
            to_outputs_back(points, outputs, g, m);
            float *to = c->m + t * c->filters + j;
#pragma GCC unroll 16
            for (int i = 0; i < points; i++) store_some(to + i * plane, m[i], left);
        }
        store_some(c->dbias + j, load_some(c->dbias + j, left) + total, left);
    }
}

INLINE void forward_of(const int points, const int outputs, const int window, const Winograd *c, long n,
                       const float *x) {
    const long all = n * c->tiles, vplane = (long)c->block * c->channels, mplane = (long)c->block * c->filters;
    for (long begin = 0; begin < all; begin += c->block) {
        const long count = all - begin < c->block ? all - begin : c->block;
        tiles_in(points, c, begin, count, x);
        for (int i = 0; i < points; i++)
            product(count, c->v + i * vplane, c->by_channel, c->ones, c->u + i * (long)c->channels * c->filters,
                    c->by_filter, c->channels, c->filters, 0, c->m + i * mplane, 0, c->filters, SET, LINEAR);
        tiles_out(points, outputs, window, c, begin, count);
    }
}

INLINE void backward_of(const int points, const int outputs, const int window, const Winograd *c, long n,
                        const float *x, const float *dy) {
    const long all = n * c->tiles, vplane = (long)c->block * c->channels, mplane = (long)c->block * c->filters;
    if (c->dx) memset(c->dx, 0, 4 * (size_t)n * (size_t)c->inputs);
    for (long begin = 0; begin < all; begin += c->block) {
        const long count = all - begin < c->block ? all - begin : c->block;
        tiles_in(points, c, begin, count, x);
        tiles_out_back(points, outputs, window, c, begin, count, dy);
        for (int i = 0; i < points; i++) {
            const long weights = i * (long)c->channels * c->filters;
            product(c->channels, c->v + i * vplane, c->ones, c->by_channel, c->m + i * mplane, c->by_filter, count,
                    c->filters, 0, c->du + weights, 0, c->filters, ADD, LINEAR);
            if (c->dx)
                product(count, c->m + i * mplane, c->by_filter, c->ones, c->ut + weights, c->by_channel, c->filters,
                        c->channels, 0, c->v + i * vplane, 0, c->channels, SET, LINEAR);
        }
        if (c->dx) tiles_in_back(points, c, begin, count);
    }
}

#define EACH_KIND(CASE)                                                                                                \
    CASE(SQUARE, 4, 1) CASE(SQUARE, 4, 4) CASE(LINE, 2, 1) CASE(LINE, 2, 2) CASE(LINE, 3, 1) CASE(LINE, 4, 1)          \
    CASE(LINE, 4, 2) CASE(LINE, 5, 1)

static void winograd_forward(const Winograd *c, long n, const float *x) {
#define FORWARD(p, o, w) if (c->points == p && c->outputs == o && c->window == w) forward_of(p, o, w, c, n, x);
    EACH_KIND(FORWARD)
}

static void winograd_backward(const Winograd *c, long n, const float *x, float *dy) {
#define BACKWARD(p, o, w) if (c->points == p && c->outputs == o && c->window == w) backward_of(p, o, w, c, n, x, dy);
    EACH_KIND(BACKWARD)
}

/* ------------------------------------------------------------------------------------------ depthwise convolution */

/* Places one after the other, the first at `source` in what is read and at `target` in what is written. */
typedef struct {
    int32_t source, target, count;
} Run;

/* Runs whose places meet the same elements of the kernel, and from each place to the next. `across`: of the taps, rows
 * of three neighbours of which each place has two in common with the one before; 0: none of the kind. */
typedef struct {
    int32_t first_run, runs, first_tap, taps, step_source, step_target, across;
} Meeting;

typedef struct {
    int32_t channels, activation, inputs, results; /* inputs, results: floats of a sample, before and after */
    int32_t num_meetings, num_meetings_back;
    const Meeting *meetings, *meetings_back; /* from input to output; from output to input */
    const Run *runs, *runs_back;
    const int32_t *tap_x, *tap_w;      /* lists of taps: where a tap lies in the input, and its weights */
    const int32_t *tap_g, *tap_w_back; /* the same for the way back: in the gradients of the outputs */
    const float *w, *bias;             /* [kernel rows * columns, channels], [channels] */
    float *dw, *dbias, *y, *dx;
} Depthwise;

enum { SIDE = 4, KEPT = 9 }; /* places that are computed side by side; weights that stay in registers */

#define SOME(p) (few ? load_few(p, few) : load(p))
#define PUT(p, v) store_some(p, v, few ? few : V)

/* A vector of channels of `m`: y = the activated sum of init and of n products of taps and weights. `rows` of three
 * neighbours each are loaded once for all places side by side. */
INLINE void weigh(const int n, const int rows, const int few, const Meeting *m, const Run *runs, const float *x,
                  const int32_t *at, const float *w, const int32_t *at_w, vec init, int activation, float *y) {
    const long step = m->step_source, step_y = m->step_target;
    const int num = n ? n : m->taps;
    vec weight[KEPT];
    if (n)
#pragma GCC unroll 9
        for (int k = 0; k < n; k++) weight[k] = SOME(w + at_w[k]);
#define WEIGHT(k) (n ? weight[k] : SOME(w + at_w[k]))
    for (const Run *r = runs + m->first_run, *end = r + m->runs; r < end; r++) {
        const float *from = x + r->source;
        float *to = y + r->target;
        long count = r->count;
        for (; count >= SIDE; count -= SIDE, from += SIDE * step, to += SIDE * step_y) {
            vec sum[SIDE];
#pragma GCC unroll 4
            for (int j = 0; j < SIDE; j++) sum[j] = init;
            if (rows)
#pragma GCC unroll 3
                for (int row = 0; row < rows; row++) {
                    const float *first = from + at[3 * row];
                    vec input[SIDE + 2];
#pragma GCC unroll 6
                    for (int j = 0; j < SIDE + 2; j++) input[j] = SOME(first + j * step);
#pragma GCC unroll 3
                    for (int k = 0; k < 3; k++)
#pragma GCC unroll 4
                        for (int j = 0; j < SIDE; j++) sum[j] = mul_add(input[j + k], weight[3 * row + k], sum[j]);
                }
            else
#pragma GCC unroll 9
                for (int k = 0; k < num; k++)
#pragma GCC unroll 4
                    for (int j = 0; j < SIDE; j++) sum[j] = mul_add(SOME(from + at[k] + j * step), WEIGHT(k), sum[j]);
#pragma GCC unroll 4
            for (int j = 0; j < SIDE; j++) PUT(to + j * step_y, activated(sum[j], activation));
        }
        for (; count > 0; count--, from += step, to += step_y) {
            vec sum = init;
#pragma GCC unroll 9
            for (int k = 0; k < num; k++) sum = mul_add(SOME(from + at[k]), WEIGHT(k), sum);
            PUT(to, activated(sum, activation));
        }
    }
}

/* From x to y by all meetings; `bias` may be null. */
static void apply(const Meeting *meetings, long num, const Run *runs, long channels, const float *x,
                  const int32_t *taps, const float *w, const int32_t *taps_w, const float *bias, int activation,
                  float *y) {
#define WEIGH(n, rows)                                                                                                 \
    if (few) weigh(n, rows, few, m, runs, x + j, at, w + j, at_w, init, activation, y + j);                            \
    else weigh(n, rows, 0, m, runs, x + j, at, w + j, at_w, init, activation, y + j);
    for (const Meeting *m = meetings; m < meetings + num; m++)
        for (long j = 0; j < channels; j += V) {
            const int few = channels - j < V ? (int)(channels - j) : 0;
            const int32_t *at = taps + m->first_tap, *at_w = taps_w + m->first_tap;
            const vec init = bias ? load_some(bias + j, channels - j) : zero();
            switch (m->across ? -m->across : m->taps) {
                case -1: WEIGH(3, 1) break;
                case -2: WEIGH(6, 2) break;
                case -3: WEIGH(9, 3) break;
                case 1: WEIGH(1, 0) break;
                case 2: WEIGH(2, 0) break;
                case 3: WEIGH(3, 0) break;
                case 4: WEIGH(4, 0) break;
                case 6: WEIGH(6, 0) break;
                case 9: WEIGH(9, 0) break;
                default: WEIGH(0, 0)
            }
        }
}

static void depthwise_forward(const Depthwise *d, long n, const float *x) {
    for (long s = 0; s < n; s++)
        apply(d->meetings, d->num_meetings, d->runs, d->channels, x + s * d->inputs, d->tap_x, d->w, d->tap_w, d->bias,
              d->activation, d->y + s * d->results);
}

/* The gradient of n weights of a vector of channels of `m`: dw[k] += the sum over all its places of g * x[k]. */
INLINE void weights_of(const int n, const int rows, const int few, const Meeting *m, const Run *runs, const float *x,
                       const int32_t *at, const float *g, const int32_t *at_w, float *dw) {
    const long step = m->step_source, step_g = m->step_target;
    vec sum[KEPT];
#pragma GCC unroll 9
    for (int k = 0; k < n; k++) sum[k] = zero();
    for (const Run *r = runs + m->first_run, *end = r + m->runs; r < end; r++) {
        const float *from = x + r->source, *back = g + r->target;
        long count = r->count;
        if (rows)
            for (; count >= SIDE; count -= SIDE, from += SIDE * step, back += SIDE * step_g) {
                vec d[SIDE];
#pragma GCC unroll 4
                for (int j = 0; j < SIDE; j++) d[j] = SOME(back + j * step_g);
#pragma GCC unroll 3
                for (int row = 0; row < rows; row++) {
                    const float *first = from + at[3 * row];
                    vec input[SIDE + 2];
#pragma GCC unroll 6
                    for (int j = 0; j < SIDE + 2; j++) input[j] = SOME(first + j * step);
#pragma GCC unroll 4
                    for (int j = 0; j < SIDE; j++)
#pragma GCC unroll 3
                        for (int k = 0; k < 3; k++) sum[3 * row + k] = mul_add(d[j], input[j + k], sum[3 * row + k]);
                }
            }
        for (; count > 0; count--, from += step, back += step_g) {
            const vec d = SOME(back);
#pragma GCC unroll 9
            for (int k = 0; k < n; k++) sum[k] = mul_add(d, SOME(from + at[k]), sum[k]);
        }
    }
#pragma GCC unroll 9
    for (int k = 0; k < n; k++) PUT(dw + at_w[k], SOME(dw + at_w[k]) + sum[k]);
}

static void weights_back(const Depthwise *d, const float *x, const float *g) {
#define WEIGHTS(n, rows)                                                                                               \
    if (few) weights_of(n, rows, few, m, d->runs, x + j, at + k, g + j, at_w + k, d->dw + j);                          \
    else weights_of(n, rows, 0, m, d->runs, x + j, at + k, g + j, at_w + k, d->dw + j);
    for (const Meeting *m = d->meetings; m < d->meetings + d->num_meetings; m++)
        for (long j = 0; j < d->channels; j += V) {
            const int few = d->channels - j < V ? (int)(d->channels - j) : 0;
            const int32_t *at = d->tap_x + m->first_tap, *at_w = d->tap_w + m->first_tap;
            int k = 0;
            switch (m->across) {
                case 1: WEIGHTS(3, 1) break;
                case 2: WEIGHTS(6, 2) break;
                case 3: WEIGHTS(9, 3) break;
                default:
                    for (; m->taps - k >= 9; k += 9) { WEIGHTS(9, 0) }
                    for (; m->taps - k >= 3; k += 3) { WEIGHTS(3, 0) }
                    for (; m->taps - k >= 1; k += 1) { WEIGHTS(1, 0) }
            }
        }
}

static void depthwise_backward(const Depthwise *d, long n, const float *x, float *dy) {
    const long places = d->results / d->channels;
    for (long s = 0; s < n; s++, dy += d->results) {
        back_through(places, 1, d->channels, dy, d->y + s * d->results, 0, d->activation, dy, 0, d->dbias);
        weights_back(d, x + s * d->inputs, dy);
        if (d->dx)
            apply(d->meetings_back, d->num_meetings_back, d->runs_back, d->channels, dy, d->tap_g, d->w, d->tap_w_back,
                  0, LINEAR, d->dx + s * d->inputs);
    }
}

/* -------------------------------------------------------------------------------------------------------- pooling */

/* Windows of `size` places each, which may overlap: the maximum (`places` not null) or the mean. */
typedef struct {
    int32_t channels, inputs, windows, size; /* inputs: floats of a sample; windows: of a sample */
    const int32_t *at_x;                     /* [windows, size] where the places are */
    float *y, *dx;
    uint8_t *places; /* [n, windows, channels] */
} Pool;

static void pool_forward(const Pool *p, long n, const float *x) {
    float *y = p->y;
    uint8_t *places = p->places;
    const vec size = splat((float)p->size);
    for (long s = 0; s < n; s++, x += p->inputs)
        for (long k = 0; k < p->windows; k++, y += p->channels) {
            const int32_t *at = p->at_x + k * p->size;
            for (long j = 0; j < p->channels; j += V) {
                const long left = p->channels - j;
                vec result = load_some(x + at[0] + j, left);
                ivec place = {0};
                for (int i = 1; i < p->size; i++) {
                    const vec other = load_some(x + at[i] + j, left);
                    if (places) keep_larger(&result, &place, other, i);
                    else result += other;
                }
                if (places) store_places(places + j, place, left);
                else result = result / size;
                store_some(y + j, result, left);
            }
            if (places) places += p->channels;
        }
}

static void pool_backward(const Pool *p, long n, const float *x, float *dy) {
    float *dx = p->dx;
    const uint8_t *places = p->places;
    const vec size = splat((float)p->size);
    (void)x;
    const int is_whole = p->windows == 1 && !places; /* a sample's mean: each place is written once */
    if (!is_whole) memset(dx, 0, 4 * (size_t)n * (size_t)p->inputs);
    for (long s = 0; s < n; s++, dx += p->inputs)
        for (long k = 0; k < p->windows; k++, dy += p->channels) {
            const int32_t *at = p->at_x + k * p->size;
            for (long j = 0; j < p->channels; j += V) {
                const long left = p->channels - j;
                vec d = load_some(dy + j, left);
                if (!places) d = d / size;
                const ivec place = places ? load_places(places + j, left) : (ivec){0};
                for (int i = 0; i < p->size; i++) {
                    float *to = dx + at[i] + j;
                    if (is_whole) store_some(to, d, left);
                    else store_some(to, load_some(to, left) + (places ? where(place == i, d) : d), left);
                }
            }
            if (places) places += p->channels;
        }
}

/* -------------------------------------------------------------------------------------------------- layers in order */

enum { DENSE, CONV, WINOGRAD, DEPTHWISE, POOL };

typedef struct {
    int32_t kind, rows; /* rows: of a sample, as the layer counts them */
    const void *layer;
    const float *y;
    float *dx;
} Step;

EXPORT void edged_forward(const Step *steps, long num, long n, const float *x) {
    for (const Step *s = steps; s < steps + num; x = s->y, s++)
        switch (s->kind) {
            case DENSE: dense_forward(s->layer, n * s->rows, x); break;
            case CONV: conv_forward(s->layer, n * s->rows, x); break;
            case WINOGRAD: winograd_forward(s->layer, n * s->rows, x); break;
            case DEPTHWISE: depthwise_forward(s->layer, n * s->rows, x); break;
            case POOL: pool_forward(s->layer, n * s->rows, x); break;
        }
}

/* The way back, with the gradients of the last outputs, which are overwritten; it ends where none is wanted. */
EXPORT void edged_backward(const Step *steps, long num, long n, const float *first, float *dy) {
    for (const Step *s = steps + num - 1; s >= steps && dy; dy = s->dx, s--) {
        const float *x = s == steps ? first : s[-1].y;
        switch (s->kind) {
            case DENSE: dense_backward(s->layer, n * s->rows, x, dy); break;
            case CONV: conv_backward(s->layer, n * s->rows, x, dy); break;
            case WINOGRAD: winograd_backward(s->layer, n * s->rows, x, dy); break;
            case DEPTHWISE: depthwise_backward(s->layer, n * s->rows, x, dy); break;
            case POOL: pool_backward(s->layer, n * s->rows, x, dy); break;
        }
    }
}

/* ------------------------------------------------------------------------------------------------- cross-entropy */

INLINE vec exp_of(vec x) { /* of x <= 0, to 2 units in the last place; below -87 as if at -87; NaN stays as it is */
    x = pick(x < splat(-87), splat(-87), x);
    const vec shift = splat(12582912); /* 1.5 * 2^23: adding it rounds to whole numbers, in the lowest bits */
    const vec shifted = mul_add(x, splat(1.44269504f), shift), n = shifted - shift;
    const vec r = mul_add(n, splat(2.12194440e-4f), mul_add(n, splat(-0.693359375f), x));
    vec p = splat(1.9875691500e-4f);
    p = mul_add(p, r, splat(1.3981999507e-3f));
    p = mul_add(p, r, splat(8.3334519073e-3f));
    p = mul_add(p, r, splat(4.1665795894e-2f));
    p = mul_add(p, r, splat(1.6666665459e-1f));
    p = mul_add(p, r, splat(5.0000001201e-1f));
    p = mul_add(p, r * r, r) + splat(1);
    return pick(x == x, (vec)((ivec)p + ((ivec)shifted << 23)), x);
}

static float log_of(float x) { /* of x >= 1 */
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (bits < 0 || bits >= 0x7f800000) return x; /* infinite or NaN, which x86 makes with a sign */
    int32_t exponent = (bits >> 23) - 127;
    bits = (bits & 0x7fffff) | 0x3f800000;
    float m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.41421356f) m *= 0.5f, exponent++;
    const vec f = splat(m - 1), e = splat((float)exponent);
    vec p = splat(7.0376836292e-2f);
    p = mul_add(p, f, splat(-1.1514610310e-1f));
    p = mul_add(p, f, splat(1.1676998740e-1f));
    p = mul_add(p, f, splat(-1.2420140846e-1f));
    p = mul_add(p, f, splat(1.4249322787e-1f));
    p = mul_add(p, f, splat(-1.6668057665e-1f));
    p = mul_add(p, f, splat(2.0000714765e-1f));
    p = mul_add(p, f, splat(-2.4999993993e-1f));
    p = mul_add(p, f, splat(3.3333331174e-1f));
    p = p * f * (f * f);
    p = mul_add(e, splat(-2.12194440e-4f), p);
    p = mul_add(f * f, splat(-0.5f), p);
    return mul_add(e, splat(0.693359375f), f + p)[0];
}

/* -log softmax(x)[target] of each row of x [n, classes], and its gradient times `scale`, in g. `scores`: the gradient's
 * norm before that. Returns how many rows have their maximum at the target. Targets are classes, as Python knows. */
EXPORT long edged_cross_entropy(long n, long classes, const float *x, const int64_t *targets, const float *scale,
                                float *losses, float *scores, float *g) {
    long correct = 0;
    for (long i = 0; i < n; i++, x += classes, g += classes) {
        long best = 0;
        for (long j = 1; j < classes; j++)
            if (x[j] > x[best]) best = j;
        correct += best == targets[i];
        const vec most = splat(x[best]);
        for (long j = 0; j < classes; j += V)
            store_some(g + j, exp_of(load_some(x + j, classes - j) - most), classes - j);
        float sum = 0, squares = 0;
        for (long j = 0; j < classes; j++) sum += g[j];
        losses[i] = log_of(sum) - (x[targets[i]] - x[best]);
        for (long j = 0; j < classes; j++) {
            const float d = g[j] / sum - (float)(j == targets[i]);
            squares += d * d;
            g[j] = d * scale[i];
        }
        scores[i] = __builtin_sqrtf(squares);
    }
    return correct;
}

/* The forward pass, the loss and the way back of n samples of `inputs` floats, in micro-batches of at most `most`, whose
 * gradients of the loss are in g [most, classes]; for the rest see edged_cross_entropy. */
EXPORT long edged_lane(const Step *steps, long num, long most, long n, long inputs, const float *x, long classes,
                       const int64_t *targets, const float *scale, float *losses, float *scores, float *g) {
    long correct = 0;
    for (long i = 0; i < n; i += most) {
        const long some = n - i < most ? n - i : most;
        edged_forward(steps, num, some, x + i * inputs);
        correct += edged_cross_entropy(some, classes, steps[num - 1].y, targets + i, scale + i, losses + i, scores + i, g);
        edged_backward(steps, num, some, x + i * inputs, g);
    }
    return correct;
}

/* ----------------------------------------------------------------------------------------------------- optimizers
 *
 * What domain.nn.optimizer_steps computes, to the bit: the same operations in the same order, none of them fused.
 */
static const float SMALLEST = 0x1p-126f; /* what is smaller is denormal, and becomes 0 */

INLINE vec decayed(vec slot, float factor, vec added) {
    const vec sum = splat(factor) * slot + added, size = (vec)((ivec)sum & 0x7fffffff);
    return where(~(size < splat(SMALLEST)), sum);
}

/* n weights p along the gradient g * rate, with momentum, and a penalty on their size unless `decay` is 0. */
EXPORT void edged_momentum(long n, float *p, float *velocity, const float *g, float decay, float rate, float momentum,
                           float learning_rate, int nesterov) {
    for (long i = 0; i < n; i += V) {
        const vec x = load_some(p + i, n - i);
        vec d = load_some(g + i, n - i);
        if (decay != 0) d = d + splat(decay) * x;
        d = splat(rate) * d;
        const vec v = decayed(load_some(velocity + i, n - i), momentum, d);
        vec step = v;
        if (nesterov) step = d + splat(momentum) * v;
        store_some(velocity + i, v, n - i);
        store_some(p + i, x - splat(learning_rate) * step, n - i);
    }
}

/* `kept`: of the weights, after their decay; `rest1`, `rest2`: 1 - beta; `corrected`: 1 - beta2 to the number of steps. */
EXPORT void edged_adam(long n, float *p, float *mean, float *variance, const float *g, float kept, float beta1,
                       float rest1, float beta2, float rest2, float corrected, float epsilon, float learning_rate) {
    for (long i = 0; i < n; i += V) {
        const vec d = load_some(g + i, n - i);
        const vec m = decayed(load_some(mean + i, n - i), beta1, splat(rest1) * d);
        const vec v = decayed(load_some(variance + i, n - i), beta2, splat(rest2) * (d * d));
        const vec step = m / (root_of(v / splat(corrected)) + splat(epsilon));
        store_some(mean + i, m, n - i);
        store_some(variance + i, v, n - i);
        store_some(p + i, splat(kept) * load_some(p + i, n - i) - splat(learning_rate) * step, n - i);
    }
}

/* ---------------------------------------------------------------------------------------------------- the library */

/* One instruction of each feature that the compiler may use, see `build.VARIANTS`; LZCNT alone, as BSR, never fails. */
#ifndef TRIAL
#if defined(__AVX512F__)
#define TRIAL_512                                                                                                      \
    "vpaddd %%zmm0, %%zmm0, %%zmm0\n vpaddb %%zmm0, %%zmm0, %%zmm0\n vplzcntd %%zmm0, %%zmm0\n"                        \
    "vpmullq %%zmm0, %%zmm0, %%zmm0\n vpternlogd $0, %%ymm0, %%ymm0, %%ymm0\n"
#else
#define TRIAL_512
#endif
#if defined(__x86_64__)
#define TRIAL                                                                                                          \
    "vaddps %%ymm0, %%ymm0, %%ymm0\n vpaddd %%ymm0, %%ymm0, %%ymm0\n vfmadd231ps %%ymm0, %%ymm0, %%ymm0\n"            \
    "vcvtph2ps %%xmm0, %%ymm0\n andn %%eax, %%eax, %%ecx\n rorx $1, %%eax, %%ecx\n movbe %0, %%ecx\n" TRIAL_512       \
    "vzeroupper\n"
#endif
#endif

/* Whether this CPU has what this library was compiled for. Its list of features may say so where an emulator or a
 * virtual machine refuses the instructions, and then a process that computes ends by SIGILL. */
#ifdef TRIAL
static sigjmp_buf refused;
static void refuse(int signal) { siglongjmp(refused, signal); }
__attribute__((target("no-avx"))) EXPORT int edged_kernels_run_here(void) {
    struct sigaction refusing, before;
    int word = 0, is_refused;
    memset(&refusing, 0, sizeof refusing);
    refusing.sa_handler = refuse;
    sigaction(SIGILL, &refusing, &before);
    is_refused = sigsetjmp(refused, 1);
    if (!is_refused) __asm__ volatile(TRIAL : : "m"(word) : "eax", "ecx", "cc", "xmm0");
    sigaction(SIGILL, &before, 0);
    return !is_refused;
}
#else
EXPORT int edged_kernels_run_here(void) { return 1; }
#endif

EXPORT int edged_kernels_abi(void) { return ABI; }
EXPORT int edged_kernels_numerics(void) { return NUMERICS; }
EXPORT const char *edged_kernels_source(void) {
#ifdef EDGED_SOURCE
    return EDGED_SOURCE;
#else
    return "";
#endif
}
EXPORT int64_t edged_kernels_sizeof(int which) {
    switch (which) {
        case 0: return sizeof(Dense);
        case 1: return sizeof(Group);
        case 2: return sizeof(Conv);
        case 3: return sizeof(Winograd);
        case 4: return sizeof(Run);
        case 5: return sizeof(Meeting);
        case 6: return sizeof(Depthwise);
        case 7: return sizeof(Pool);
        case 8: return sizeof(Step);
        default: return 0;
    }
}
