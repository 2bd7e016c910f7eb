//! Timers of one thread, behind one timer descriptor that its loop watches like a socket.
//!
//! The runtime's own timers cost on every turn of the loop, whether one is due or not: a look at
//! its wheel, two looks at the clock, and a timeout that the kernel arms before each wait and
//! takes back behind it. Here a turn costs nothing, and an alarm two system calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::ready::Watched;
use crate::clock;

#[derive(Default)]
struct Timers {
    /// Who is woken when; the number tells apart what is due at the same time.
    due: RefCell<BTreeMap<(Instant, u64), Waker>>,
    number: Cell<u64>,
    /// The descriptor, while a task of this thread's runtime watches it.
    alarm: RefCell<Option<Rc<Watched>>>,
    /// When it goes off.
    set_to: Cell<Option<Instant>>,
}

thread_local! {
    static TIMERS: Timers = Timers::default();
}

impl Timers {
    /// Sets the alarm to the first timer. Without a descriptor for it, false.
    fn set(&self) -> bool {
        let Some(first) = self.due.borrow().first_key_value().map(|((at, _), _)| *at) else {
            return true;
        };
        if self.set_to.get().is_some_and(|set_to| set_to <= first) {
            return true;
        }
        let alarm = self.alarm.borrow();
        let Some(alarm) = alarm.as_ref() else { return false };
        // Zero would turn it off.
        let left = first.saturating_duration_since(clock::now()).max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval, it_value };
        let set = timerfd_settime(&**alarm, TimerfdTimerFlags::empty(), &value).is_ok();
        self.set_to.set(set.then_some(first));
        set
    }

    fn wake_due(&self, now: Instant) {
        let mut due = self.due.borrow_mut();
        while let Some(first) = due.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
    }

    /// Makes the descriptor, and a task that watches it.
    fn begin(&self) -> io::Result<()> {
        if self.alarm.borrow().is_some() {
            return Ok(());
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let alarm = Watched::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?;
        self.alarm.replace(Some(Rc::new(alarm)));
        self.set_to.set(None);
        monoio::spawn(watch());
        Ok(())
    }
}

/// Forgets all timers of this thread; to be called before a runtime is run on it. The tasks of an
/// earlier runtime may be leaked with it, and with them whoever watched the alarm.
pub fn forget() {
    TIMERS.with(|timers| {
        timers.alarm.take();
        timers.set_to.set(None);
        // Dropped outside the borrow: a waker may own the last of a task with timers of its own.
        let due = timers.due.take();
        drop(due);
    });
}

async fn watch() {
    let Some(alarm) = TIMERS.with(|timers| timers.alarm.borrow().clone()) else { return };
    loop {
        poll_fn(|cx| alarm.poll_readable(cx)).await;
        // Its eight bytes say how often it went off.
        let _ = rustix::io::read(&*alarm, &mut [0_u8; 8]);
        alarm.drained();
        TIMERS.with(|timers| {
            timers.set_to.set(None);
            timers.wake_due(clock::now());
            timers.set();
        });
    }
}

/// A wait for a moment. Dropping it costs nothing.
#[derive(Debug)]
pub struct Sleep {
    deadline: Instant,
    /// Its number among the timers, once it has waited.
    number: Option<u64>,
}

impl Sleep {
    /// When it is over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= clock::now() {
            return Poll::Ready(());
        }
        TIMERS.with(|timers| {
            let number = *self.number.get_or_insert_with(|| {
                timers.number.set(timers.number.get() + 1);
                timers.number.get()
            });
            timers.due.borrow_mut().insert((self.deadline, number), cx.waker().clone());
            if timers.begin().is_err() || !timers.set() {
                // No descriptor is left: looking again on every turn is dear, and right.
                cx.waker().wake_by_ref();
            }
        });
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let key = (self.deadline, number);
            let _ = TIMERS.try_with(|timers| timers.due.borrow_mut().remove(&key));
        }
    }
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, number: None }
}

/// Waits for `duration`; one beyond reckoning never ends.
pub fn sleep(duration: Duration) -> Sleep {
    const FOREVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
    sleep_until(clock::now() + duration.min(FOREVER))
}

/// What `future` comes to, or none where it takes longer than `limit`.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let (mut future, mut sleep) = (pin!(future), sleep(limit));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut sleep).poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::runtime::tests::on_both;

    #[test]
    fn timers_end_in_the_order_of_their_deadlines() {
        on_both(2, async || {
            let order = Rc::new(RefCell::new(Vec::new()));
            let begun = clock::now();
            for ms in [30, 10, 20, 10, 0] {
                let order = Rc::clone(&order);
                monoio::spawn(async move {
                    sleep_until(begun + Duration::from_millis(ms)).await;
                    order.borrow_mut().push(ms);
                });
            }
            sleep(Duration::from_millis(40)).await;
            assert_eq!(*order.borrow(), [0, 10, 10, 20, 30]);
            assert!(TIMERS.with(|timers| timers.due.borrow().is_empty()));
        });
    }

    #[test]
    fn what_is_dropped_is_forgotten_and_what_is_late_is_none() {
        on_both(2, async || {
            let never = std::future::pending::<()>();
            assert_eq!(timeout(Duration::from_millis(1), never).await, None);
            assert_eq!(timeout(Duration::MAX, sleep(Duration::from_millis(1))).await, Some(()));
            assert_eq!(timeout(Duration::ZERO, async { 1 }).await, Some(1));
            assert!(TIMERS.with(|timers| timers.due.borrow().is_empty()));
        });
    }
}
