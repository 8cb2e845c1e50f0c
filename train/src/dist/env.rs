//! Which rank this process is, from the variables that its starter set: a pure function of a map, so that
//! every family of variables is a row of a table test. The first complete family wins; a family that is set
//! in part is an error that lists what is missing, since guessing would start two runs of one rank each.

use std::collections::BTreeMap;

use midi_ingest::job::exit::{Error, Result};

/// Where the ranks of a job meet, and which one this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankEnv {
    /// This process, from 0.
    pub rank: usize,
    /// All processes.
    pub world: usize,
    /// This process among those of its machine.
    pub local_rank: usize,
    /// The processes of this machine, if they are known.
    pub local_world: Option<usize>,
    /// The store's host; empty in a world of one.
    pub host: String,
    /// The store's port.
    pub port: u16,
    /// Whether something else serves the store; if not, rank 0 does.
    pub served: bool,
    /// How often the job was started again, as written: keys of one start are not those of another.
    pub restart: String,
}

/// The port of a Slurm job without MASTER_PORT is this plus the job's number below the same.
const SLURM_PORTS: u64 = 20_000;

impl RankEnv {
    /// Names the file where torchrun wants the error's text; it is no part of a rank.
    pub const ERROR_FILE: &'static str = "TORCHELASTIC_ERROR_FILE";

    /// Every variable that is looked at.
    pub const NAMES: [&'static str; 24] = [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "LOCAL_WORLD_SIZE",
        "MASTER_ADDR",
        "MASTER_PORT",
        "TORCHELASTIC_USE_AGENT_STORE",
        "TORCHELASTIC_RESTART_COUNT",
        Self::ERROR_FILE,
        "SLURM_STEP_ID",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_STEP_TASKS_PER_NODE",
        "SLURM_STEP_NODELIST",
        "SLURM_JOB_ID",
        "SLURM_RESTART_COUNT",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "PMI_RANK",
        "PMI_SIZE",
    ];

    /// A world of one.
    pub fn alone() -> Self {
        RankEnv {
            rank: 0,
            world: 1,
            local_rank: 0,
            local_world: Some(1),
            host: String::new(),
            port: 0,
            served: false,
            restart: "0".to_owned(),
        }
    }

    /// The rank that `variables` name. Empty values count as not set.
    ///
    /// # Errors
    /// A family is set in part, or a value makes no sense: exit code 78.
    pub fn resolve(variables: &BTreeMap<String, String>) -> Result<Self> {
        let env = Variables(variables);
        let found = if env.get("RANK").is_some() || env.get("WORLD_SIZE").is_some() || env.get("LOCAL_RANK").is_some() {
            env.torch()?
        } else if env.get("SLURM_STEP_ID").is_some() && env.get("SLURM_PROCID").is_some() {
            env.slurm()?
        } else if env.get("OMPI_COMM_WORLD_RANK").is_some() || env.get("OMPI_COMM_WORLD_SIZE").is_some() {
            env.mpi("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", Some("OMPI_COMM_WORLD_LOCAL_RANK"))?
        } else if env.get("PMI_RANK").is_some() || env.get("PMI_SIZE").is_some() {
            env.mpi("PMI_RANK", "PMI_SIZE", None)?
        } else {
            RankEnv::alone()
        };
        if found.world == 0 || found.rank >= found.world {
            return Err(Error::mismatch(format!("rank {} of {} processes cannot be", found.rank, found.world)));
        }
        Ok(found)
    }
}

struct Variables<'a>(&'a BTreeMap<String, String>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// The number in `name`, which must be set.
    fn number(&self, name: &str) -> Result<usize> {
        let text = self.get(name).ok_or_else(|| Error::mismatch(format!("{name} is not set")))?;
        text.parse().map_err(|_| Error::mismatch(format!("{name} is `{text}`, which is no number from 0")))
    }

    /// That all of `family` are set.
    fn whole(&self, family: &[&str]) -> Result<()> {
        let missing: Vec<&str> = family.iter().copied().filter(|name| self.get(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let set: Vec<&str> = family.iter().copied().filter(|name| self.get(name).is_some()).collect();
        Err(Error::mismatch(format!("{} set, but {} not", are(&set), are(&missing)))
            .hint("set all of them for a run of several processes, or none to train in this one alone"))
    }

    fn port(&self) -> Result<u16> {
        let text = self.get("MASTER_PORT").unwrap_or_default();
        text.parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Error::mismatch(format!("MASTER_PORT is `{text}`, which is no port")))
    }

    /// torchrun, and PyTorchJob or Volcano, which set no LOCAL_RANK.
    fn torch(&self) -> Result<RankEnv> {
        self.whole(&["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])?;
        let local = self.get("LOCAL_RANK").is_some();
        Ok(RankEnv {
            rank: self.number("RANK")?,
            world: self.number("WORLD_SIZE")?,
            local_rank: if local { self.number("LOCAL_RANK")? } else { 0 },
            local_world: match self.get("LOCAL_WORLD_SIZE") {
                Some(_) => Some(self.number("LOCAL_WORLD_SIZE")?),
                None => (!local).then_some(1),
            },
            host: self.get("MASTER_ADDR").unwrap_or_default().to_owned(),
            port: self.port()?,
            served: self.get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|text| text.eq_ignore_ascii_case("true")),
            restart: self.get("TORCHELASTIC_RESTART_COUNT").unwrap_or("0").to_owned(),
        })
    }

    /// A step of Slurm. The host of task 0 is the first of the step's nodes.
    fn slurm(&self) -> Result<RankEnv> {
        let count = if self.get("SLURM_STEP_NUM_TASKS").is_some() { "SLURM_STEP_NUM_TASKS" } else { "SLURM_NTASKS" };
        self.whole(&["SLURM_PROCID", count, "SLURM_LOCALID"])?;
        let (rank, world) = (self.number("SLURM_PROCID")?, self.number(count)?);
        let local_world = match (self.get("SLURM_STEP_TASKS_PER_NODE"), self.get("SLURM_NODEID")) {
            (Some(text), Some(_)) => tasks_of_node(text, self.number("SLURM_NODEID")?),
            _ => None,
        };
        let base = RankEnv { rank, world, local_rank: self.number("SLURM_LOCALID")?, local_world, ..RankEnv::alone() };
        if world == 1 {
            return Ok(base);
        }
        let host = match (self.get("MASTER_ADDR"), self.get("SLURM_STEP_NODELIST")) {
            (Some(host), _) => host.to_owned(),
            (None, Some(list)) => first_node(list)?,
            (None, None) => return Err(Error::mismatch("neither MASTER_ADDR nor SLURM_STEP_NODELIST is set")),
        };
        let port = match self.get("MASTER_PORT") {
            Some(_) => self.port()?,
            None => {
                self.whole(&["SLURM_PROCID", "SLURM_JOB_ID"])?;
                let job = self.number("SLURM_JOB_ID")? as u64;
                (SLURM_PORTS + job % SLURM_PORTS) as u16
            }
        };
        let restart = self.get("SLURM_RESTART_COUNT").unwrap_or("0").to_owned();
        Ok(RankEnv { host, port, restart, ..base })
    }

    fn mpi(&self, rank: &str, world: &str, local: Option<&str>) -> Result<RankEnv> {
        self.whole(&[rank, world])?;
        let local_rank = match local.filter(|name| self.get(name).is_some()) {
            Some(name) => self.number(name)?,
            None => 0,
        };
        let base = RankEnv { rank: self.number(rank)?, world: self.number(world)?, local_rank, ..RankEnv::alone() };
        if base.world == 1 {
            return Ok(base);
        }
        self.whole(&[rank, world, "MASTER_ADDR", "MASTER_PORT"])?;
        let host = self.get("MASTER_ADDR").unwrap_or_default().to_owned();
        Ok(RankEnv { host, port: self.port()?, local_world: None, ..base })
    }
}

fn are(names: &[&str]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// The first host of a Slurm list of nodes.
///
/// # Errors
/// The list makes no sense: exit code 78.
pub fn first_node(list: &str) -> Result<String> {
    nodes(list)?.into_iter().next().ok_or_else(|| Error::mismatch(format!("the list of nodes `{list}` is empty")))
}

/// Most hosts that a list may stand for.
const MOST_NODES: usize = 1 << 16;

/// All hosts of a Slurm list of nodes: `n[01-03,7],login` is n01, n02, n03, n7, login.
///
/// # Errors
/// The list makes no sense: exit code 78.
pub fn nodes(list: &str) -> Result<Vec<String>> {
    let bad = || Error::mismatch(format!("the list of nodes `{list}` is not understood")).hint("set MASTER_ADDR");
    let mut hosts = Vec::new();
    let mut depth = 0usize;
    let mut from = 0;
    let ends = list.char_indices().chain([(list.len(), ',')]);
    for (at, character) in ends {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.checked_sub(1).ok_or_else(bad)?,
            ',' if depth == 0 || at == list.len() => {
                expand(&list[from..at], &mut hosts).ok_or_else(bad)?;
                from = at + 1;
            }
            _ => {}
        }
    }
    if depth == 0 { Ok(hosts) } else { Err(bad()) }
}

/// Adds the hosts of one item, which may hold several brackets.
fn expand(item: &str, hosts: &mut Vec<String>) -> Option<()> {
    let Some((before, rest)) = item.split_once('[') else {
        if item.is_empty() || hosts.len() == MOST_NODES {
            return None;
        }
        hosts.push(item.to_owned());
        return Some(());
    };
    let (ranges, after) = rest.split_once(']')?;
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (low, high): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if low > high || high - low >= MOST_NODES {
            return None;
        }
        for number in low..=high {
            expand(&format!("{before}{number:0width$}{after}", width = first.len()), hosts)?;
        }
    }
    Some(())
}

/// The tasks of node `node` in a list such as `2(x3),1`.
fn tasks_of_node(text: &str, node: usize) -> Option<usize> {
    let mut before = 0usize;
    for item in text.split(',') {
        let (tasks, times) = match item.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (item, 1),
        };
        before = before.checked_add(times)?;
        if node < before {
            return tasks.parse().ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<RankEnv> {
        let pair = |item: &str| item.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        RankEnv::resolve(&text.split_whitespace().filter_map(pair).collect())
    }

    #[test]
    fn every_family_of_variables_is_understood() {
        const MASTER: &str = "MASTER_ADDR=h MASTER_PORT=29500";
        const STEP: &str = "SLURM_STEP_ID=0 SLURM_PROCID=3 SLURM_NTASKS=9 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 \
                            SLURM_NODEID=1 SLURM_STEP_TASKS_PER_NODE=2(x2) SLURM_STEP_NODELIST=n[07-08] SLURM_JOB_ID=40123";
        // What is set, then: rank, world, local rank, local world, host, port, served, restart.
        type Row<'a> = (String, (usize, usize, usize, Option<usize>, &'a str, u16, bool, &'a str));
        let rows: Vec<Row<'_>> = vec![
            (String::new(), (0, 1, 0, Some(1), "", 0, false, "0")),
            ("RANK= WORLD_SIZE=".into(), (0, 1, 0, Some(1), "", 0, false, "0")),
            (
                format!(
                    "RANK=2 WORLD_SIZE=4 LOCAL_RANK=0 LOCAL_WORLD_SIZE=2 GROUP_RANK=1 {MASTER} \
                         TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RESTART_COUNT=3"
                ),
                (2, 4, 0, Some(2), "h", 29500, true, "3"),
            ),
            (
                format!("RANK=2 WORLD_SIZE=4 LOCAL_RANK=1 {MASTER} TORCHELASTIC_USE_AGENT_STORE=False"),
                (2, 4, 1, None, "h", 29500, false, "0"),
            ),
            (format!("RANK=1 WORLD_SIZE=2 {MASTER}"), (1, 2, 0, Some(1), "h", 29500, false, "0")),
            (STEP.into(), (3, 4, 1, Some(2), "n07", 20123, false, "0")),
            (format!("{STEP} {MASTER} SLURM_RESTART_COUNT=2"), (3, 4, 1, Some(2), "h", 29500, false, "2")),
            (format!("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 {MASTER} {STEP}"), (1, 2, 1, None, "h", 29500, false, "0")),
            ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_JOB_ID=3".into(), (0, 1, 0, Some(1), "", 0, false, "0")),
            (
                format!("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 {MASTER}"),
                (1, 2, 1, None, "h", 29500, false, "0"),
            ),
            ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1".into(), (0, 1, 0, Some(1), "", 0, false, "0")),
            (format!("PMI_RANK=1 PMI_SIZE=2 {MASTER}"), (1, 2, 0, None, "h", 29500, false, "0")),
        ];
        for (set, (rank, world, local_rank, local_world, host, port, served, restart)) in rows {
            let (host, restart) = (host.to_owned(), restart.to_owned());
            let expected = RankEnv { rank, world, local_rank, local_world, host, port, served, restart };
            assert_eq!(resolve(&set).unwrap_or_else(|e| panic!("{set}: {e}")), expected, "{set}");
        }
    }

    #[test]
    fn a_family_in_part_lists_what_is_missing() {
        for (set, text) in [
            ("RANK=0", "RANK is set, but WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not"),
            ("WORLD_SIZE=2 RANK=1 MASTER_ADDR=h", "RANK, WORLD_SIZE, MASTER_ADDR are set, but MASTER_PORT is not"),
            ("LOCAL_RANK=0 RANK=0 WORLD_SIZE=1", "RANK, WORLD_SIZE are set, but MASTER_ADDR, MASTER_PORT are not"),
            ("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2", "SLURM_LOCALID is not"),
            ("SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_LOCALID=0", "neither MASTER_ADDR nor"),
            ("OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE is not"),
            ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2", "MASTER_ADDR, MASTER_PORT are not"),
            ("PMI_SIZE=2", "PMI_RANK is not"),
            ("RANK=x WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1", "RANK is `x`"),
            ("RANK=2 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1", "rank 2 of 2"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=70000", "MASTER_PORT is `70000`"),
        ] {
            let error = resolve(set).expect_err(set);
            assert_eq!(error.exit(), midi_ingest::job::Exit::Mismatch);
            assert!(error.to_string().contains(text), "{set}: {error}");
        }
    }

    #[test]
    fn slurm_lists_are_expanded() {
        for (list, hosts) in [
            ("n1", "n1"),
            ("n[01-03,7]", "n01 n02 n03 n7"),
            ("a[9-11]-x,login", "a9-x a10-x a11-x login"),
            ("r[1-2]c[1,3]", "r1c1 r1c3 r2c1 r2c3"),
        ] {
            assert_eq!(nodes(list).expect(list).join(" "), hosts);
        }
        for list in ["", "n[", "n]", "n[2-1]", "n[a]", "n[0-99999999]", "a,,b"] {
            assert!(nodes(list).is_err(), "{list}");
        }
        assert_eq!(tasks_of_node("2(x3),1", 2), Some(2));
        assert_eq!(tasks_of_node("2(x3),1", 3), Some(1));
        assert_eq!(tasks_of_node("2(x3),1", 4), None);
    }
}
