export interface Event {
    id: string | undefined;
    event: string;
    data: string;
    /** A comment's text; such an event has no data. */
    comment: string | undefined;
}
/**
 * Each event of a stream, and each comment, until it ends.
 *
 * @throws Disconnected where it breaks off, or nothing came for `silenceMs`: the server sends a
 *   comment every 15 s, so a longer silence is a connection that has died unnoticed.
 */
export declare function events(answer: Response, silenceMs: number): AsyncGenerator<Event>;
