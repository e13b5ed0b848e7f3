//! [`RunAhead`]: an iterator whose items are made before they are asked for.

use std::collections::VecDeque;

use crossbeam_channel::{Receiver, bounded};

use super::deferred::in_the_making;
use super::strand::Strand;

/// Gives the items of an iterator in order, and has the next ones made on other threads: at most one for each core and one more
/// are held. Nothing is made before the first is asked for.
pub struct RunAhead<I: Iterator> {
    strand: Strand<I>,
    coming: VecDeque<Receiver<Option<I::Item>>>,
    has_ended: bool,
}

impl<I> RunAhead<I>
where
    I: Iterator + Send + 'static,
    I::Item: Send + 'static,
{
    pub fn new(items: I) -> Self {
        Self { strand: Strand::new(items), coming: VecDeque::new(), has_ended: false }
    }

    fn order(&mut self) {
        let (sender, receiver) = bounded(1);
        self.strand.then(move |mut items| {
            // Nobody waits for it after the end.
            let _ = sender.send(items.next());
            items
        });
        self.coming.push_back(receiver);
    }
}

impl<I> Iterator for RunAhead<I>
where
    I: Iterator + Send + 'static,
    I::Item: Send + 'static,
{
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        while !self.has_ended && self.coming.len() < in_the_making() {
            self.order();
        }
        let item = self.coming.pop_front()?.recv().expect("the iterator does not panic");
        if item.is_none() {
            self.has_ended = true;
            self.coming.clear();
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_in_order_and_end() {
        let mut numbers = RunAhead::new(0..1000);
        assert!(numbers.by_ref().eq(0..1000));
        assert_eq!(numbers.next(), None);
    }
}
