//! Handshakes take turns: a rush of them must not keep a core from its streams.
//!
//! A handshake's arithmetic takes a fraction of a millisecond, or more than one with RSA keys, and
//! the loop serves nobody else meanwhile. So one is let through between two turns of the loop;
//! the others wait in line.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::{Poll, Waker};

/// One core's line of handshakes.
#[derive(Debug, Default)]
pub struct Turns {
    taken: Cell<bool>,
    next: Cell<u64>,
    /// Those who wait, first come first; `None` where it is one's turn.
    waiting: RefCell<BTreeMap<u64, Option<Waker>>>,
    echo: OnceCell<Option<Echo>>,
}

/// A socket that we tell something ourselves: to hear it takes a turn of the loop.
#[derive(Debug)]
struct Echo {
    telling: UnixStream,
    hearing: UnixStream,
    watched: monoio::net::UnixStream,
}

impl Echo {
    fn new() -> io::Result<Self> {
        let (telling, hearing) = UnixStream::pair()?;
        telling.set_nonblocking(true)?;
        hearing.set_nonblocking(true)?;
        let watched = monoio::net::UnixStream::from_std(hearing.try_clone()?)?;
        Ok(Self { telling, hearing, watched })
    }
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
        self.pass().await;
        output
    }

    /// Waits for one turn of the loop. Waking oneself would not do: the loop runs who is awake
    /// before it looks for what has come.
    async fn pass(&self) {
        let Some(echo) = self.echo.get_or_init(|| Echo::new().ok()) else { return };
        // One who left while waiting has left something to hear.
        while matches!((&echo.hearing).read(&mut [0; 8]), Ok(1..)) {}
        let mut told = false;
        let mut waiting = pin!(echo.watched.readable(false));
        poll_fn(|cx| {
            // Armed first: what is known to have come would be heard at once.
            let heard = waiting.as_mut().poll(cx);
            if heard.is_pending() && !std::mem::replace(&mut told, true) {
                let _ = (&echo.telling).write(&[0]);
            }
            heard
        })
        .await
        .ok();
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
    use super::*;
    use std::rc::Rc;

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
        for io in [crate::config::plan::Io::Epoll, crate::config::plan::Io::Uring] {
            let thread = std::thread::spawn(move || {
                let Some(mut runtime) = runtime(io) else { return };
                runtime.block_on(async {
                    let turns = Rc::new(Turns::default());
                    let steps = Rc::new(Cell::new(0));
                    for _ in 0..20 {
                        let (turns, steps) = (Rc::clone(&turns), Rc::clone(&steps));
                        monoio::spawn(async move {
                            turns.take(|| steps.set(steps.get() + 1)).await;
                        });
                    }
                    // A stream, which waits as often.
                    let (stream, mut seen) = (Turns::default(), 0);
                    while steps.get() < 20 {
                        stream.pass().await;
                        let done = steps.get() - seen;
                        assert!(done <= 2, "{done} steps in one go");
                        seen = steps.get();
                    }
                });
            });
            thread.join().expect("no panic");
        }
    }

    fn runtime(
        io: crate::config::plan::Io,
    ) -> Option<
        monoio::FusionRuntime<
            monoio::time::TimeDriver<monoio::IoUringDriver>,
            monoio::time::TimeDriver<monoio::LegacyDriver>,
        >,
    > {
        if io == crate::config::plan::Io::Epoll {
            let legacy = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new();
            return Some(legacy.enable_timer().build().expect("epoll").into());
        }
        let uring = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new();
        uring.enable_timer().build().ok().map(Into::into)
    }
}
