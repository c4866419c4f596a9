//! A small report for the tests of everything that shows reports.

use crate::class::Class;
use crate::cli::PageSize;
use crate::machine::Machine;
use crate::plan::{Cell, Who};
use crate::recorder::Latency;
use crate::report::{Kind, Method, Report};
use crate::rounds::{Absent, Found, Probe, Sample};
use crate::stream::Throughput;
use crate::task::{Mode, Wait, Work};

/// A sample of a stream of 64 bytes at `rate` messages in one second.
pub(crate) fn sample(round: u32, who: Who, rate: u64, probes: (f64, f64)) -> Sample {
    let probe = |nanos| Probe { typical_ns: nanos, p50_ns: nanos, p99_ns: nanos };
    Sample {
        round,
        cell: Cell { work: Work::Stream, bytes: 64, readers: 1, mode: Mode::All, who, depth: 1024 },
        class: Class::agreed(probes.0, probes.1),
        before: probe(probes.0),
        after: probe(probes.1),
        latency: None,
        throughput: Some(Throughput { messages: rate, seconds: 1.0 }),
    }
}

/// A small comparison with something of everything in it.
pub(crate) fn example() -> Report {
    let near = (30.0, 32.0);
    let latency = |round, who, nanos: f64| {
        let mut sample = sample(round, who, 1, near);
        sample.cell.work = Work::Latency;
        sample.throughput = None;
        sample.latency = Some(Latency {
            trips: 1000,
            typical_ns: nanos,
            p50_ns: nanos,
            p90_ns: nanos * 2.0,
            p99_ns: nanos * 3.0,
            p999_ns: nanos * 4.0,
            max_ns: nanos * 100.0,
            wait_p99_ns: 0.0,
            curve: vec![(0.0, nanos / 2.0), (0.5, nanos), (0.99, nanos * 3.0), (1.0, 1e6)],
        });
        sample
    };
    let mut deep = sample(0, Who::Ringbuf, 20, near);
    deep.cell.depth = 65536;
    let samples = vec![
        sample(0, Who::Laneway, 40, near),
        sample(0, Who::Ringbuf, 10, near),
        deep,
        latency(0, Who::Laneway, 70.0),
        latency(0, Who::Pipe, 700.0),
        latency(1, Who::Laneway, 70.0),
        sample(1, Who::Laneway, 4, (200.0, 210.0)),
        sample(1, Who::Ringbuf, 2, (30.0, 210.0)),
    ];
    let machine = Machine {
        cpu: "Test & <Machine>".to_owned(),
        kernel: "6".to_owned(),
        cpus_allowed: vec![0, 1],
        cpus: (0, 1),
        siblings: false,
        virtual_machine: true,
        caches: vec!["L2 1024K".to_owned()],
        load: 0.0,
    };
    let method = Method {
        rounds: 2,
        seconds: 0.2,
        page_size_asked: PageSize::Auto,
        page_bytes: vec![2 << 20],
        samples_moved: 0,
        wait: Wait::Spin,
        pinned: true,
    };
    let cell = Cell { who: Who::UnixSeqpacket, ..samples[0].cell };
    let absent = vec![Absent { cell, why: "no such <socket>".to_owned() }];
    Report::new(Kind::Compare, machine, method, Found { samples, absent })
}
