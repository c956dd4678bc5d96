//! One requester and an office of workers in virtual time: is the build as quick as it could be, and does it
//! end whatever the workers do?
//!
//! The workers are quick, slow, busy with others' work, lying about their slots, failing, flapping or silent;
//! adverts arrive late; on every machine what runs shares the CPU, on the requester's the finding of inputs too.
//! Every run is a pure function of its seed.

mod host;
mod world;

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use world::{HONEST, Outcome, Scenario, Sizes, Temper, WorkerKind, World};

const MS: Duration = Duration::from_millis(1);
const TEMPERS: [Temper; 9] = [
    Temper::Honest,
    Temper::Shared,
    Temper::Boaster,
    Temper::Failing,
    Temper::Silent,
    Temper::Stopped,
    Temper::StopsAfter(3),
    Temper::Flapping,
    Temper::Liar,
];

/// 300 tasks at once on a machine with 4 cores.
fn build(name: &'static str, seed: u64, workers: &[WorkerKind]) -> Scenario {
    Scenario {
        name,
        seed,
        local_slots: 4,
        cpu: 0.0,
        tasks: 300,
        at_once: 300,
        finding: 0.0,
        serving: 0.0,
        noise: 0.0,
        sizes: Sizes::Wide,
        workers: workers.to_vec(),
    }
}

/// Runs that build with three seeds, and compares its time with the ideal one and with that of this machine
/// alone. The ideal counts honest workers only.
fn check(name: &'static str, workers: &[WorkerKind], over_ideal_max: f64, of_alone_max: f64) {
    for seed in 0..3 {
        let outcome = run(&build(name, seed, workers));
        let took = outcome.took.as_secs_f64();
        let (ideal, alone) = (outcome.ideal.as_secs_f64(), outcome.alone.as_secs_f64());
        assert!(took <= ideal * over_ideal_max, "{name}, seed {seed}: {outcome}");
        assert!(took <= alone * of_alone_max, "{name}, seed {seed}: {outcome}");
    }
}

/// Runs a scenario; what came of it is shown when the test fails, or with `--nocapture`.
fn run(scenario: &Scenario) -> Outcome {
    let outcome = World::new(scenario).run();
    println!("{}, seed {}: share {:.3}, {outcome}", scenario.name, scenario.seed, outcome.share());
    outcome
}

/// A good office with two bad workers, which have more slots than the good ones.
fn mixed(temper: Temper) -> [WorkerKind; 2] {
    [WorkerKind { count: 3, ..HONEST }, WorkerKind { count: 2, slots: 16, temper, ..HONEST }]
}

/// 106 units on machines of fractions of a CPU with one slot each, 24 at once.
fn fractions(name: &'static str, seed: u64, cpu: f64, workers: usize, worker_cpu: f64) -> Scenario {
    let kind = WorkerKind {
        count: workers,
        slots: 1,
        queue_max: 2,
        cpu: worker_cpu,
        shipping: 10 * MS,
        overhead: 0.020,
        ..HONEST
    };
    Scenario {
        name,
        seed,
        local_slots: 1,
        cpu,
        tasks: 106,
        at_once: 24,
        finding: 0.015,
        serving: 0.0,
        noise: 0.0,
        sizes: Sizes::LogNormal(0.45),
        workers: vec![kind],
    }
}

/// The mean shares of the ideal, and of what is attainable when finding and laying out inputs is counted, over
/// 20 seeds.
fn shares(scenario: impl Fn(u64) -> Scenario) -> (f64, f64) {
    let outcomes: Vec<Outcome> = (0..20).map(|seed| run(&scenario(seed))).collect();
    let mean = |share: fn(&Outcome) -> f64| outcomes.iter().map(share).sum::<f64>() / outcomes.len() as f64;
    let shares = (mean(Outcome::share), mean(Outcome::share_of_attainable));
    let idle = [0, 1, 2].map(|n| outcomes.iter().map(|outcome| outcome.idle[n]).sum::<f64>() / 20.0);
    let name = scenario(0).name;
    println!("{name}: mean shares {:.3} and {:.3}, workers idle {idle:.3?}", shares.0, shares.1);
    shares
}

#[test]
fn eight_equal_hosts_reach_what_eight_hosts_can() {
    let (share, attained) = shares(|seed| fractions("eight equal", seed, 0.2, 7, 0.2));
    assert!(share >= 0.86 && attained >= 0.92, "{share:.3} {attained:.3}");
}

/// Eight hosts of 0.2 CPU as the bench has them: the same unit takes up to 1.9 times as long on one of two equal
/// hosts, and feeding a worker costs the requester 25 ms of CPU.
fn bench(seed: u64) -> Scenario {
    let sizes = Sizes::LogNormal(0.5);
    Scenario { tasks: 107, serving: 0.010, noise: 0.3, sizes, ..fractions("as the bench", seed, 0.2, 7, 0.2) }
}

#[test]
fn eight_noisy_hosts_reach_what_eight_hosts_can() {
    let (share, attained) = shares(bench);
    assert!(share >= 0.83 && attained >= 0.9, "{share:.3} {attained:.3}");
}

/// Workers that have proven themselves and then stop, with all they have.
#[test]
fn what_a_good_worker_holds_when_it_stops_is_done_elsewhere() {
    let stopping = WorkerKind { count: 2, temper: Temper::StopsAfter(5), ..HONEST };
    check("stopping", &[WorkerKind { count: 3, ..HONEST }, stopping], 1.8, 0.3);
    for seed in 0..20 {
        let honest = bench(seed);
        let [kind] = &honest.workers[..] else { panic!("one kind of worker") };
        let stopping = WorkerKind { count: 1, temper: Temper::StopsAfter(5), ..kind.clone() };
        let workers = vec![WorkerKind { count: 6, ..kind.clone() }, stopping];
        let outcome = run(&Scenario { name: "one of seven stops", workers, ..honest });
        assert!(outcome.share_of_attainable() > 0.65, "{outcome}");
    }
}

#[test]
fn a_weak_requester_feeds_its_workers_first() {
    let (share, attained) = shares(|seed| fractions("weak requester", seed, 0.3, 3, 0.4));
    assert!(share >= 0.89 && attained >= 0.95, "{share:.3} {attained:.3}");
    // Finding inputs by the compiler's own `-M` run.
    let dear = |seed| Scenario { finding: 0.045, ..fractions("dear finding", seed, 0.3, 3, 0.4) };
    let (share, attained) = shares(dear);
    assert!(share >= 0.83 && attained >= 0.93, "{share:.3} {attained:.3}");
}

#[test]
fn alone_all_cores_are_busy() {
    check("alone", &[], 1.1, 1.1);
}

#[test]
fn equal_workers_share_the_work() {
    check("equal", &[WorkerKind { count: 4, ..HONEST }], 1.3, 0.15);
}

#[test]
fn unequal_workers_share_the_work() {
    let kinds = [
        WorkerKind { speed: 2.0, ..HONEST },
        WorkerKind { count: 2, ..HONEST },
        WorkerKind { count: 2, speed: 0.3, ..HONEST },
    ];
    check("unequal", &kinds, 1.5, 0.2);
}

#[test]
fn slow_workers_do_not_slow_the_build_down() {
    check("slow", &[WorkerKind { count: 4, slots: 2, speed: 0.02, ..HONEST }], 1.3, 1.15);
}

#[test]
fn workers_without_the_toolchain_join_in_when_they_have_it() {
    check("fetching", &[WorkerKind { count: 4, has_toolchain: false, ..HONEST }], 2.2, 0.3);
}

#[test]
fn bad_workers_hardly_cost_anything() {
    for temper in [Temper::Boaster, Temper::Failing, Temper::Flapping, Temper::Liar, Temper::Shared] {
        check("office with a bad worker", &mixed(temper), 1.6, 0.3);
    }
}

#[test]
fn silent_workers_cost_little() {
    check("silent", &mixed(Temper::Silent), 1.8, 0.3);
    check("stopped", &mixed(Temper::Stopped), 1.8, 0.3);
}

#[test]
fn only_bad_workers_are_nearly_as_good_as_none() {
    for temper in [Temper::Boaster, Temper::Failing, Temper::Silent, Temper::Flapping, Temper::Liar] {
        check("only bad workers", &[WorkerKind { count: 5, temper, ..HONEST }], 1.1, 1.1);
    }
    // What has begun somewhere is not given up lightly.
    check("only stopped workers", &[WorkerKind { count: 5, temper: Temper::Stopped, ..HONEST }], 1.4, 1.4);
}

#[test]
fn a_bad_worker_attracts_little() {
    for (temper, most) in [(Temper::Failing, 3), (Temper::Liar, 3), (Temper::Boaster, 50)] {
        let outcome = run(&build("attraction", 1, &mixed(temper)));
        for bad in 3..5 {
            let sent = outcome.sent.get(&bad).copied().unwrap_or_default();
            assert!(sent <= most, "{temper:?}: {outcome}");
        }
    }
}

/// What a neighbour costs at most, in seconds, over many small and middling builds with a task of at most 4 s.
fn check_useless(kind: &WorkerKind, seconds_max: f64) {
    let mut worst: f64 = 0.0;
    for (seed, tasks) in (0..6).flat_map(|seed| [1, 4, 5, 8, 20, 100].map(|tasks| (seed, tasks))) {
        let with = Scenario { tasks, at_once: 8, ..build("useless", seed, std::slice::from_ref(kind)) };
        let without = Scenario { workers: vec![], ..with.clone() };
        let cost = run(&with).took.as_secs_f64() - run(&without).took.as_secs_f64();
        worst = worst.max(cost);
    }
    println!("cost {worst:.2} s at most");
    assert!(worst <= seconds_max, "{worst:.2} s");
}

#[test]
fn a_neighbour_behind_a_thin_line_costs_little() {
    check_useless(&WorkerKind { shipping: Duration::from_secs(20), ..HONEST }, 1.0);
}

/// Nobody knows that it is slow before a task took too long there.
#[test]
fn a_very_slow_neighbour_costs_little() {
    check_useless(&WorkerKind { speed: 0.02, ..HONEST }, 1.0);
}

/// A worker that stops in the middle of a build: its tasks end elsewhere soon.
#[test]
fn what_a_stopped_worker_holds_is_done_elsewhere() {
    for seed in 0..20 {
        let stopped = WorkerKind { slots: 2, temper: Temper::Stopped, ..HONEST };
        let kinds = [WorkerKind { slots: 2, count: 2, ..HONEST }, stopped];
        let scenario = Scenario { tasks: 12, sizes: Sizes::LogNormal(0.3), ..build("held", seed, &kinds) };
        let outcome = run(&scenario);
        assert!(outcome.took < Duration::from_secs(6), "seed {seed}: {outcome}");
    }
}

/// Any office, any build: it ends, and no invariant of the world breaks.
#[test]
fn hundreds_of_offices() {
    for seed in 0..250 {
        let mut random = StdRng::seed_from_u64(seed);
        let kinds = (0..random.gen_range(0..4)).map(|_| {
            let slots = random.gen_range(1..6);
            WorkerKind {
                count: random.gen_range(1..4),
                slots,
                queue_max: random.gen_range(0..4),
                cpu: if random.gen_bool(0.3) { 0.4 * f64::from(slots) } else { 0.0 },
                speed: [0.02, 0.3, 1.0, 2.0][random.gen_range(0..4)],
                temper: TEMPERS[random.gen_range(0..TEMPERS.len())],
                has_toolchain: random.gen_bool(0.8),
                shipping: MS * [1, 20, 500, 20_000][random.gen_range(0..4)],
                overhead: 0.02,
            }
        });
        let scenario = Scenario {
            name: "any",
            seed,
            workers: kinds.collect(),
            local_slots: random.gen_range(1..5),
            cpu: if random.gen_bool(0.3) { 0.5 } else { 0.0 },
            tasks: random.gen_range(1..80),
            at_once: random.gen_range(1..40),
            finding: 0.005,
            serving: 0.005,
            noise: if random.gen_bool(0.5) { 0.3 } else { 0.0 },
            sizes: if random.gen_bool(0.5) { Sizes::Wide } else { Sizes::LogNormal(0.45) },
        };
        run(&scenario);
    }
}
