//! Waiting for one of several things without dropping the others.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use super::ready::poll_give_way;
use super::timer::{Sleep, sleep_until};

/// Polls the future in `slot`, made by `make` where the slot is empty; empties the slot when it
/// is ready. A slot that stays armed costs nothing more on the next wake.
pub fn poll_slot<F: Future>(
    mut slot: Pin<&mut Option<F>>,
    make: impl FnOnce() -> F,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    if slot.is_none() {
        slot.set(Some(make()));
    }
    let Some(future) = slot.as_mut().as_pin_mut() else {
        return Poll::Pending;
    };
    let output = ready!(future.poll(cx));
    slot.set(None);
    Poll::Ready(output)
}

/// One timer for a deadline that moves. Moving it later costs nothing until the old deadline
/// comes; moving it earlier re-arms it.
pub fn poll_deadline(
    mut slot: Pin<&mut Option<Sleep>>,
    deadline: Option<Instant>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let Some(deadline) = deadline else {
        return Poll::Pending;
    };
    let armed = slot.as_ref().as_pin_ref().map(|sleep| sleep.get_ref().deadline());
    if armed.is_none_or(|armed| armed > deadline) {
        slot.set(Some(sleep_until(deadline)));
    }
    poll_slot(slot, || sleep_until(deadline), cx)
}

/// Makes a task that never has to wait give way to the others of its core.
///
/// A wait for what is there already is over at once, so a peer that is always ready would keep the
/// loop, and everyone else's events, waiting for as long as it likes.
#[derive(Debug, Default)]
pub struct GiveWay {
    /// This wait's condition has come.
    ready: bool,
    /// Others have had their turn during this wait.
    waited: bool,
}

impl GiveWay {
    /// To be called as the last of each poll of one wait, with whether what it waits for has come;
    /// that it has come is kept until the wait is over.
    pub fn poll(&mut self, ready: bool, cx: &Context<'_>) -> Poll<()> {
        self.ready |= ready;
        let over = self.ready && self.waited;
        if over {
            *self = Self::default();
            return Poll::Ready(());
        }
        self.waited = true;
        if self.ready {
            poll_give_way(cx);
        }
        Poll::Pending
    }
}
