//! [`with_room`]: stacks for deep trees. Long expressions and nested queries are such, and whatever walks them calls itself for each level.

/// Bytes of stack, of which only what is used is memory, for queries that are nested as deeply as the parser takes them: each level of
/// subqueries takes it a dozen calls.
pub(super) const PARSING: usize = 16 << 20;
/// The same for planning them.
pub(super) const PLANNING: usize = 64 << 20;
/// What is left to those who call it, on a stack that is made for many queries.
const AROUND: usize = 16 << 20;

/// Calls `work` where as much stack is left: here, or on a stack of its own. To make one, and to touch it for the first time, costs as much
/// as to plan a small query.
pub(super) fn on_deep<T>(room: usize, work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(room, room + AROUND, work)
}

/// Bytes of a stack on which [`with_room`] need not make another one.
pub const ROOM: usize = PLANNING + 2 * AROUND;

/// Calls `work` on a stack that has room for all queries that it parses and plans, one after the other.
pub fn with_room<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(PLANNING + AROUND, ROOM, work)
}
