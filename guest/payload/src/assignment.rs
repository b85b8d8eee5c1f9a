//! Which CPU stands for which thread of a test: every way there is, by number.

/// Threads that can be assigned at most.
pub const THREADS_MAX: usize = 4;

/// The CPU of each thread. Those of threads that the test does not have mean nothing.
pub type Assignment = [usize; THREADS_MAX];

/// How many ways there are to give `threads` (at most [`THREADS_MAX`]) different CPUs out of `cpus`.
pub fn count(threads: usize, cpus: usize) -> u64 {
    (0..threads.min(THREADS_MAX)).map(|taken| cpus.saturating_sub(taken) as u64).product()
}

/// The way of that number; numbers beyond [`count`] begin anew. CPUs are handed out lowest first, so that way 0 puts
/// thread n on CPU n.
pub fn nth(mut number: u64, threads: usize, cpus: usize) -> Assignment {
    let mut assignment: Assignment = [0; THREADS_MAX];
    for thread in 0..threads.min(THREADS_MAX).min(cpus) {
        let free = (cpus - thread) as u64;
        let mut place = (number % free) as usize;
        number /= free;
        // The `place`th of the CPUs that are still free.
        let mut cpu = 0;
        loop {
            let taken = assignment[..thread].contains(&cpu);
            if !taken && place == 0 {
                break;
            }
            place -= usize::from(!taken);
            cpu += 1;
        }
        assignment[thread] = cpu;
    }
    assignment
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_way_is_there_once() {
        for (threads, cpus) in [(1, 1), (2, 2), (2, 3), (3, 3), (4, 4), (2, 5), (4, 6)] {
            let all: BTreeSet<_> = (0..count(threads, cpus)).map(|n| nth(n, threads, cpus)).collect();
            assert_eq!(all.len() as u64, count(threads, cpus));
            for way in &all {
                let used: BTreeSet<_> = way[..threads].iter().collect();
                assert!(used.len() == threads && used.iter().all(|&&cpu| cpu < cpus), "{way:?}");
            }
        }
        assert_eq!(nth(0, 4, 8), [0, 1, 2, 3]);
        assert_eq!(nth(count(2, 3), 2, 3), nth(0, 2, 3));
    }
}
