//! Handshakes take turns: a rush of them must not keep a core from its streams.
//!
//! A handshake's arithmetic takes a fraction of a millisecond, or more than one with RSA keys, and
//! the loop serves nobody else meanwhile. So one is let through between two turns of the loop;
//! the others wait in line.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::net::ready::give_way;

/// One core's line of handshakes.
#[derive(Debug, Default)]
pub struct Turns {
    taken: Cell<bool>,
    next: Cell<u64>,
    /// Those who wait, first come first; `None` where it is one's turn.
    waiting: RefCell<BTreeMap<u64, Option<Waker>>>,
}

/// A place in line, or a turn.
struct Place<'a> {
    turns: &'a Turns,
    number: u64,
    has_turn: bool,
}

impl Turns {
    /// Does `step` when it is its turn. May be dropped at any time.
    pub async fn take<T>(&self, step: impl FnOnce() -> T) -> T {
        let number = self.next.replace(self.next.get() + 1);
        let mut place = Place { turns: self, number, has_turn: false };
        poll_fn(|cx| place.poll(cx.waker())).await;
        let output = step();
        give_way().await;
        output
    }

    fn give_back(&self) {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.values_mut().find(|waker| waker.is_some()) {
            Some(first) => {
                if let Some(waker) = first.take() {
                    waker.wake();
                }
            }
            None => self.taken.set(false),
        }
    }
}

impl Place<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<()> {
        let mut waiting = self.turns.waiting.borrow_mut();
        match waiting.get_mut(&self.number) {
            Some(None) => {
                waiting.remove(&self.number);
                self.has_turn = true;
                Poll::Ready(())
            }
            Some(Some(known)) => {
                known.clone_from(waker);
                Poll::Pending
            }
            None if !self.turns.taken.replace(true) => {
                self.has_turn = true;
                Poll::Ready(())
            }
            None => {
                waiting.insert(self.number, Some(waker.clone()));
                Poll::Pending
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let held = self.turns.waiting.borrow_mut().remove(&self.number);
        // One who leaves when it was its turn passes it on.
        if self.has_turn || matches!(held, Some(None)) {
            self.turns.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::net::runtime::tests::on_both;

    #[test]
    fn turns_go_round_in_order_and_those_who_leave_pass_theirs_on() {
        let turns = Turns::default();
        let waker = Waker::noop();
        let place = |number| Place { turns: &turns, number, has_turn: false };
        let mut places: Vec<_> = (0..5).map(place).collect();
        let first: Vec<bool> = places.iter_mut().map(|p| p.poll(waker).is_ready()).collect();
        assert_eq!(first, [true, false, false, false, false]);
        drop(places.remove(0));
        // It is the next one's turn, who leaves; so it is the turn of the one behind.
        drop(places.remove(0));
        let second: Vec<bool> = places.iter_mut().map(|p| p.poll(waker).is_ready()).collect();
        assert_eq!(second, [true, false, false]);
        drop(places);
        assert!(!turns.taken.get() && turns.waiting.borrow().is_empty());
    }

    #[test]
    fn the_loop_turns_between_steps() {
        on_both(1, async || {
            let turns = Rc::new(Turns::default());
            let steps = Rc::new(Cell::new(0));
            for _ in 0..20 {
                let (turns, steps) = (Rc::clone(&turns), Rc::clone(&steps));
                monoio::spawn(async move {
                    turns.take(|| steps.set(steps.get() + 1)).await;
                });
            }
            // A stream, which waits as often.
            let stream = monoio::spawn(async move {
                let mut seen = 0;
                while steps.get() < 20 {
                    give_way().await;
                    let done = steps.get() - seen;
                    assert!(done <= 2, "{done} steps in one go");
                    seen = steps.get();
                }
            });
            stream.await;
        });
    }
}
