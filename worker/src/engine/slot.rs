//! Slot threads: the only threads that the worker starts for rows. Each steps its tasks in turn and sleeps when none
//! has anything to do. A panic in a task fails the task, never the process. Must not know what tasks do.

use super::task::{Progress, Task};
use super::waker::Waker;
use holdfast_common::limits::{SLOT_PARK_MAX, TASK_TURNS_PER_STEP};
use holdfast_proto::control::TaskStatus;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What a turn of a slot takes in a simulator.
const SIMULATED_STEP: Duration = Duration::from_millis(1);

/// A slot thread's handle.
pub struct Slot {
    shared: Arc<Shared>,
}

struct Shared {
    waker: Arc<Waker>,
    arriving: Mutex<Vec<Task>>,
    tasks: AtomicUsize,
    stop: AtomicBool,
    /// Rung whenever a task is gone.
    gone: Arc<Notify>,
}

struct Running {
    task: Task,
    blocked_since: Option<Instant>,
}

impl Slot {
    /// Starts the thread; `gone` is rung whenever one of its tasks is dropped.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(index: u32, gone: Arc<Notify>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            waker: Arc::new(Waker::default()),
            arriving: Mutex::default(),
            tasks: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            gone,
        });
        let inner = shared.clone();
        if holdfast_runtime::is_simulated() {
            tokio::spawn(async move { inner.run_in_turns().await });
            return Ok(Self { shared });
        }
        std::thread::Builder::new()
            .name(format!("slot-{index}"))
            .spawn(move || inner.run())?;
        Ok(Self { shared })
    }

    /// What wakes the thread.
    #[must_use]
    pub fn waker(&self) -> Arc<Waker> {
        self.shared.waker.clone()
    }

    /// Number of tasks.
    #[must_use]
    pub fn load(&self) -> usize {
        self.shared.tasks.load(Ordering::Acquire)
    }

    /// Gives the thread tasks.
    pub fn add(&self, tasks: Vec<Task>) {
        self.shared.tasks.fetch_add(tasks.len(), Ordering::AcqRel);
        self.shared.arriving.lock().extend(tasks);
        self.shared.waker.wake();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.waker.wake();
    }
}

impl Shared {
    fn run(&self) {
        let mut tasks: Vec<Running> = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            if let Some(sleep) = self.turn(&mut tasks) {
                self.waker.sleep(sleep);
            }
        }
    }

    /// As [`Self::run`], as a task in a simulator, where a step takes time and nobody else runs meanwhile.
    async fn run_in_turns(&self) {
        let mut tasks: Vec<Running> = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            match self.turn(&mut tasks) {
                Some(sleep) => self.waker.rest(sleep).await,
                None => tokio::time::sleep(SIMULATED_STEP).await,
            }
        }
    }

    /// Steps every task once. How long to sleep then; `None` if somebody has more to do.
    fn turn(&self, tasks: &mut Vec<Running>) -> Option<Duration> {
        self.waker.reset();
        let arriving = std::mem::take(&mut *self.arriving.lock());
        tasks.extend(arriving.into_iter().map(|task| Running {
            task,
            blocked_since: None,
        }));
        self.drop_cancelled(tasks);
        let mut busy = false;
        let mut sleep = SLOT_PARK_MAX;
        for running in tasks {
            match running.step() {
                Progress::Busy => busy = true,
                Progress::Idle(Some(wait)) => sleep = sleep.min(wait),
                Progress::Idle(None) | Progress::Blocked | Progress::Failed => {}
            }
        }
        (!busy).then_some(sleep)
    }

    fn drop_cancelled(&self, tasks: &mut Vec<Running>) {
        let mut i = 0;
        while i < tasks.len() {
            if !tasks[i].task.cell().is_cancelled() {
                i += 1;
                continue;
            }
            let task = tasks.swap_remove(i).task;
            let cell = task.cell().clone();
            // A connector's destructor is foreign code too.
            if catch_unwind(AssertUnwindSafe(move || drop(task))).is_err() {
                tracing::error!(task = %cell.id, "panic while a task was dropped");
            }
            cell.set_status(TaskStatus::Canceled);
            cell.set_gone();
            self.tasks.fetch_sub(1, Ordering::AcqRel);
            self.gone.notify_waiters();
        }
    }
}

impl Running {
    fn step(&mut self) -> Progress {
        let began = Instant::now();
        let task = &mut self.task;
        let progress = match catch_unwind(AssertUnwindSafe(|| task.step(TASK_TURNS_PER_STEP))) {
            Ok(progress) => progress,
            Err(panic) => {
                task.fail(format!("panic: {}", panic_text(panic.as_ref())));
                Progress::Failed
            }
        };
        self.count(began, progress);
        progress
    }

    fn count(&mut self, began: Instant, progress: Progress) {
        let counters = &self.task.cell().counters;
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        if progress == Progress::Busy {
            counters
                .busy_us
                .fetch_add(micros(began.elapsed()), Ordering::Relaxed);
        }
        if let Some(since) = self.blocked_since.take() {
            counters
                .blocked_us
                .fetch_add(micros(began.duration_since(since)), Ordering::Relaxed);
        }
        if progress == Progress::Blocked {
            self.blocked_since = Some(began);
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a text")
}
