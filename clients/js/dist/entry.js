// What a document's log holds, and what is told of it.
/** Ascending numbers up to `last`, without some: `1-41,43-50`. */
export function rangesUpTo(last, without) {
    const parts = [];
    let from = 1;
    for (const gap of [...new Set(without), last + 1].sort((a, b) => a - b)) {
        if (gap > last + 1)
            break;
        if (from < gap)
            parts.push(from === gap - 1 ? `${from}` : `${from}-${gap - 1}`);
        from = gap + 1;
    }
    return parts.join(",");
}
