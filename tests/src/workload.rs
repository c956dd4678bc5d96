//! A small build that is made again and again while something goes wrong, and what it must give each time.

use std::{collections::BTreeMap, sync::Mutex};

use crate::{Counts, Desk};

/// Some units around one header. Each value of the header is a build of its own.
#[derive(Debug)]
pub struct Workload<'a> {
    desk: &'a Desk,
    units: u64,
    /// What the compiler alone makes of each value, one object after the other.
    expected: Mutex<BTreeMap<u32, Vec<u8>>>,
}

impl<'a> Workload<'a> {
    /// Lays so many units where the desk builds.
    pub fn new(desk: &'a Desk, units: u64) -> Self {
        for unit in 0..units {
            let source =
                format!("#include \"value.h\"\nint unit{unit}(int x) {{ return x * {unit} + VALUE; }}\n");
            desk.write(&format!("u{unit}.c"), &source);
        }
        Self { desk, units, expected: Mutex::default() }
    }

    /// How many units there are.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// Builds with this value of the header, which must give what the compiler alone gives.
    pub fn build(&self, value: u32) {
        let expected = self.expected.lock().unwrap().get(&value).cloned();
        let expected = expected.unwrap_or_else(|| {
            self.desk.plain(&self.line(value)).ok();
            let objects = self.objects();
            self.expected.lock().unwrap().insert(value, objects.clone());
            objects
        });
        let ran = self.desk.sh(&self.line(value)).ok();
        assert_eq!((ran.out(), ran.err()), (String::new(), String::new()), "value {value}");
        assert!(self.objects() == expected, "value {value} gave other objects");
    }

    /// Builds, and says what the node made of it.
    pub fn counted(&self, value: u32) -> Counts {
        let before = self.desk.counts();
        self.build(value);
        self.desk.counts().since(&before)
    }

    /// The line of shell that builds.
    pub fn line(&self, value: u32) -> String {
        format!(
            "echo '#define VALUE {value}' > value.h; rm -rf out; mkdir out; \
             seq 0 {} | xargs -P 2 -I% $B gcc -O1 -c u%.c -o out/%.o",
            self.units - 1
        )
    }

    fn objects(&self) -> Vec<u8> {
        (0..self.units)
            .flat_map(|unit| std::fs::read(self.desk.at(format!("out/{unit}.o"))).expect("it was built"))
            .collect()
    }
}
