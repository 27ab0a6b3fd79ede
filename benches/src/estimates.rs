//! What criterion found: it leaves two files for each benchmark.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One benchmark.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name, with group and parameter.
    pub name: String,
    /// Median time of an iteration, in nanoseconds.
    pub median: f64,
    /// Bounds of the median's confidence interval, in nanoseconds.
    pub interval: [f64; 2],
    /// How many elements an iteration handles, where that is known.
    pub elements: Option<u64>,
}

#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
    throughput: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Reads all results below criterion's folder, sorted by name, numbers as numbers. None where there is no such folder.
///
/// # Errors
/// Where a file can't be read or is none of criterion's.
pub fn read(folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if folder.is_dir() {
        collect(folder, &mut rows)?;
    }
    rows.sort_by_cached_key(|row| row.name.split('/').map(part).collect::<Vec<_>>());
    Ok(rows)
}

fn part(text: &str) -> (Option<u64>, String) {
    (text.parse().ok(), text.to_owned())
}

fn collect(folder: &Path, rows: &mut Vec<Row>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if path.ends_with("new") {
            let benchmark: Benchmark = parse(&path.join("benchmark.json"))?;
            let Estimates { median } = parse(&path.join("estimates.json"))?;
            let elements = benchmark.throughput.and_then(|throughput| throughput.get("Elements")?.as_u64());
            rows.push(Row {
                name: benchmark.full_id,
                median: median.point_estimate,
                interval: [median.confidence_interval.lower_bound, median.confidence_interval.upper_bound],
                elements,
            });
        } else {
            collect(&path, rows)?;
        }
    }
    Ok(())
}

fn parse<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not as criterion writes it", path.display()))
}
