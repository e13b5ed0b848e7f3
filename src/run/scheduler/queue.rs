//! [`Queue`]: the state of one bounded edge. Credits are counted here and nowhere else.
//!
//! A producer reserves a place before it makes a batch, so that what is queued, being made, waiting for its turn in the order, or
//! being worked on by the consumer never exceeds the bound in bytes together. (The bound in batches is for those that the consumer has not
//! taken.) The estimate that was reserved is corrected when the size is known. Whatever its size, one batch is admitted when the
//! queue holds nothing that the consumer could take: otherwise a batch larger than the bound, or a cut larger than the bound, would wait
//! for ever.
//!
//! So the bytes of an edge are at most its bound, and above it only by batches that nobody could know to be so large: the one that
//! was admitted for want of others, and those that were being made while their sizes were still guessed.

use std::collections::VecDeque;

use super::event::{Meta, QueuedPieces};
use crate::plan::{Capacity, Edge};

#[derive(Debug)]
pub struct Queue {
    capacity: Capacity,
    spills: bool,
    pieces: VecDeque<Piece>,
    /// Bytes of the pieces in memory.
    bytes: u64,
    /// Bytes that the cut keeps back.
    held_bytes: u64,
    /// Bytes of the pieces that the consumer has taken and still needs.
    taken_bytes: u64,
    reserved_batches: u32,
    reserved_bytes: u64,
    ended: bool,
    closed: bool,
    /// Rows that the producer published, counted when it did.
    pub published_rows: u64,
    /// Rows for which the consumer gave a verdict, counted by the consumer.
    pub consumed_rows: u64,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    meta: Meta,
    spilled: bool,
}

/// What a producer reserved for one batch on one edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    bytes: u64,
}

impl Queue {
    pub fn new(edge: &Edge) -> Self {
        Self {
            capacity: edge.capacity,
            spills: edge.spills,
            pieces: VecDeque::new(),
            bytes: 0,
            held_bytes: 0,
            taken_bytes: 0,
            reserved_batches: 0,
            reserved_bytes: 0,
            ended: false,
            closed: false,
            published_rows: 0,
            consumed_rows: 0,
        }
    }

    /// Returns whether the producer may begin a batch of about `estimate` bytes.
    pub fn admits(&self, estimate: u64) -> bool {
        let batches = self.capacity.batches.get();
        if self.closed {
            return true;
        }
        if self.spills {
            // What is queued goes to disk; what is being made is in memory.
            return self.reserved_batches < batches;
        }
        if self.pieces.is_empty() && self.reserved_batches == 0 {
            return true;
        }
        self.batches() < u64::from(batches) && self.bytes_charged() + estimate <= self.capacity.bytes.get()
    }

    pub fn reserve(&mut self, estimate: u64) -> Reservation {
        self.reserved_batches += 1;
        self.reserved_bytes += estimate;
        Reservation { bytes: estimate }
    }

    /// The size of a reserved batch is known.
    pub fn correct(&mut self, reservation: &mut Reservation, bytes: u64) {
        self.reserved_bytes = self.reserved_bytes - reservation.bytes + bytes;
        reservation.bytes = bytes;
    }

    /// A reserved batch has at least this size.
    pub fn correct_to_at_least(&mut self, reservation: &mut Reservation, bytes: u64) {
        let bytes = bytes.max(reservation.bytes);
        self.correct(reservation, bytes);
    }

    /// A reserved batch was published, or there will be none.
    pub fn release(&mut self, reservation: Reservation) {
        self.reserved_batches -= 1;
        self.reserved_bytes -= reservation.bytes;
    }

    pub fn push(&mut self, queued: &QueuedPieces) {
        self.held_bytes = queued.held_bytes;
        for &meta in &queued.pieces {
            self.pieces.push_back(Piece { meta, spilled: queued.spilled });
            if !queued.spilled {
                self.bytes += meta.bytes;
            }
        }
    }

    /// Gives the consumer the next batch; [`Queue::done_with`] tells when it needs it no more.
    pub fn pop(&mut self) -> Option<Meta> {
        let meta = self.remove()?;
        self.taken_bytes += meta.bytes;
        Some(meta)
    }

    fn remove(&mut self) -> Option<Meta> {
        let piece = self.pieces.pop_front()?;
        if !piece.spilled {
            self.bytes -= piece.meta.bytes;
        }
        Some(piece.meta)
    }

    /// The consumer has given a verdict on so many rows of batches that it took, of so many bytes.
    pub fn done_with(&mut self, rows: u64, bytes: u64) {
        self.consumed_rows += rows;
        self.taken_bytes -= bytes;
    }

    pub fn front(&self) -> Option<&Meta> {
        self.pieces.front().map(|piece| &piece.meta)
    }

    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The producer publishes no more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The consumer wants no more; returns what it will not take.
    pub fn close(&mut self) -> Vec<Meta> {
        self.closed = true;
        self.held_bytes = 0;
        std::iter::from_fn(|| self.remove()).collect()
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn is_exhausted(&self) -> bool {
        self.ended && self.pieces.is_empty()
    }

    /// Batches queued and being made.
    pub fn batches(&self) -> u64 {
        self.pieces.len() as u64 + u64::from(self.reserved_batches)
    }

    /// Bytes in memory that count against the bound: queued, held back by the cut, reserved, and taken.
    pub fn bytes_charged(&self) -> u64 {
        self.bytes + self.held_bytes + self.reserved_bytes + self.taken_bytes
    }

    /// How full the queue is, between 0 and 1; reserved places count.
    pub fn fill(&self) -> f64 {
        let batches = self.batches() as f64 / f64::from(self.capacity.batches.get());
        let bytes = self.bytes_charged() as f64 / self.capacity.bytes.get() as f64;
        batches.max(bytes).min(1.0)
    }
}
