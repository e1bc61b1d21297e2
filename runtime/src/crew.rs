//! The threads of a run: they wait awake from one job to the next.
//!
//! A step of a small model is hundreds of phases of about a millisecond. A pool puts threads to sleep that have nothing to do for a moment,
//! and to wake one takes longer than the moment was (2 % of a step of the narrow model).

#![allow(unsafe_code)] // a job is borrowed by threads that do not know how long it lives; see `Crew::run`

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Who has waited so long goes to sleep.
const PATIENCE: Duration = Duration::from_micros(200);

type Job<'a> = dyn Fn() + Sync + 'a;

/// A thread that has jobs to be done, and those that help it.
pub(crate) struct Crew<'a>(&'a Post);

/// Where jobs are posted.
#[derive(Default)]
struct Post {
    /// Means something while `open`.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Jobs so far.
    posted: AtomicUsize,
    /// The job may be joined.
    open: AtomicBool,
    /// Helpers that have joined, or are looking whether they may.
    inside: AtomicUsize,
    /// There will be no more jobs.
    over: AtomicBool,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

// SAFETY: `job` is written by the leader alone, while the post is closed and nobody reads it, and read by who is inside of an open one. The
// jobs themselves are `Sync`.
unsafe impl Sync for Post {}
// SAFETY: as above.
unsafe impl Send for Post {}

/// Does something at the end of a scope, even if that is left by a panic.
pub(crate) struct AtEnd<F: Fn()>(pub(crate) F);

impl<F: Fn()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Crew<'_> {
    /// Runs `body` on this thread with the other threads of the current pool as its crew.
    pub(crate) fn gather<R: Send>(body: impl FnOnce(&mut Crew<'_>) -> R + Send) -> R {
        let post = Post::default();
        rayon::scope(|scope| {
            for _ in 1..rayon::current_num_threads() {
                scope.spawn(|_| post.help());
            }
            let _dismissed = AtEnd(|| post.dismiss());
            body(&mut Crew(&post))
        })
    }

    /// Does a job on this thread, and at the same time on every other that comes before it is done: the job shares itself out. Nobody is at
    /// it any more when this returns.
    pub(crate) fn run(&mut self, job: &Job<'_>) {
        let post = self.0;
        // SAFETY: only the lifetime changes. Helpers use the job inside of an open post only, and below the post is closed and left
        // by all of them before the job's borrow ends, even if it panics here.
        let lasting = unsafe { std::mem::transmute::<*const Job<'_>, *const Job<'static>>(job) };
        // SAFETY: the post is closed, so nobody reads the job (see `help`), and there is one leader, who is here.
        unsafe { *post.job.get() = Some(lasting) };
        let _closed = AtEnd(|| post.close());
        post.open.store(true, SeqCst);
        post.posted.fetch_add(1, SeqCst);
        post.wake();
        job();
    }
}

impl Post {
    /// Takes part in jobs until there will be no more.
    fn help(&self) {
        let mut seen = 0;
        while let Some(posted) = self.wait(seen) {
            seen = posted;
            self.inside.fetch_add(1, SeqCst);
            let _left = AtEnd(|| _ = self.inside.fetch_sub(1, SeqCst));
            // The leader closes first and then looks who is inside, we come inside and then look whether it is open: one of us sees the other.
            if self.open.load(SeqCst) {
                // SAFETY: inside of an open post; its job was written before it was opened, and is there until we have left.
                if let Some(job) = unsafe { *self.job.get() } {
                    // SAFETY: as above.
                    unsafe { (*job)() }
                }
            }
        }
    }

    /// Number of jobs, once there are others than `seen`; `None` when there will be no more.
    fn wait(&self, seen: usize) -> Option<usize> {
        let news = || {
            let posted = self.posted.load(SeqCst);
            match self.over.load(SeqCst) {
                true => Some(None),
                false => (posted != seen).then_some(Some(posted)),
            }
        };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(news) = look_for(&news) {
                return news;
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, SeqCst);
        let _awake = AtEnd(|| _ = self.asleep.fetch_sub(1, SeqCst));
        loop {
            if let Some(news) = news() {
                return news;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// After a change that who waits has to know of.
    fn wake(&self) {
        if self.asleep.load(SeqCst) > 0 {
            // Whoever has looked and found nothing has lain down when we get the bed.
            drop(self.bed.lock().unwrap_or_else(PoisonError::into_inner));
            self.alarm.notify_all();
        }
    }

    /// Lets nobody join any more, and waits for those who have.
    fn close(&self) {
        self.open.store(false, SeqCst);
        let left = || (self.inside.load(SeqCst) == 0).then_some(());
        while look_for(&left).is_none() {}
    }

    fn dismiss(&self) {
        self.over.store(true, SeqCst);
        self.wake();
    }
}

/// Looks for a moment, and then lets others run, who may be what is waited for.
pub(crate) fn look_for<T>(news: &impl Fn() -> Option<T>) -> Option<T> {
    const LOOKS: u32 = 64;
    for _ in 0..LOOKS {
        if let Some(news) = news() {
            return Some(news);
        }
        std::hint::spin_loop();
    }
    std::thread::yield_now();
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pool<R: Send>(threads: usize, body: impl FnOnce(&mut Crew<'_>) -> R + Send) -> R {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| Crew::gather(body))
    }

    #[test]
    fn every_share_of_every_job_is_done_once_before_the_next() {
        for threads in [1, 2, 7] {
            in_pool(threads, |crew| {
                for shares in (0..2000).map(|i| i % 9) {
                    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
                    crew.run(&|| {
                        while next.fetch_add(1, SeqCst) < shares {
                            done.fetch_add(1, SeqCst);
                        }
                    });
                    assert_eq!(done.into_inner(), shares);
                }
            });
        }
    }

    /// A job that the leader ends when a helper has come.
    fn meets_a_helper(crew: &mut Crew<'_>) {
        let (here, there) = (std::thread::current().id(), AtomicBool::new(false));
        crew.run(&|| match std::thread::current().id() == here {
            true => while look_for(&|| there.load(SeqCst).then_some(())).is_none() {},
            false => there.store(true, SeqCst),
        });
    }

    #[test]
    fn helpers_come_awake_or_from_sleep() {
        in_pool(2, |crew| {
            for i in 0..6 {
                if i % 2 == 0 {
                    std::thread::sleep(10 * PATIENCE);
                }
                meets_a_helper(crew);
            }
        });
    }

    #[test]
    fn a_panic_of_leader_or_helper_ends_the_run() {
        for of_leader in [true, false] {
            let run = || {
                in_pool(2, |crew| {
                    let here = std::thread::current().id();
                    let fallen = AtomicBool::new(false);
                    crew.run(&|| {
                        if (std::thread::current().id() == here) == of_leader {
                            fallen.store(true, SeqCst);
                            panic!("as planned");
                        }
                        while look_for(&|| fallen.load(SeqCst).then_some(())).is_none() {}
                    });
                });
            };
            assert!(std::panic::catch_unwind(run).is_err());
        }
    }
}
