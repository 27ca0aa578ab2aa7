//! Podman from Debian, with containers of its own: the attestor `docker` asks it what they are.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tests::domain::{Domain, Place, Plan};
use tests::process::{Ended, Process, eventually, run};
use tests::programs::Make::Signet;
use tests::programs::signet;

/// Podman with a store, a socket and containers of its own, which end with it.
#[derive(Debug)]
struct Podman {
    service: Process,
    folder: TempDir,
}

/// What is seen inside: the programs of this machine, and no network.
const IMAGE: &str = "localhost/tiny:one";

impl Podman {
    fn start() -> Option<Self> {
        tests::peers::program_of_root("podman")?;
        let folder = tempfile::Builder::new()
            .prefix("podman-")
            .tempdir()
            .unwrap();
        let at = folder.path().display();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{at}/graph\"\nrunroot = \"{at}/run\"\n"
        );
        // Debian's crun takes no machine whose cgroup v2 has a controller beside a cgroup v1.
        let containers = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{at}/tmp\"\n\
             static_dir = \"{at}/static\"\nvolume_path = \"{at}/volumes\"\n[containers]\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n"
        );
        std::fs::write(folder.path().join("storage.conf"), storage).unwrap();
        std::fs::write(folder.path().join("containers.conf"), containers).unwrap();
        for name in [
            "usr", "lib", "lib64", "proc", "sys", "dev", "etc", "tmp", "run", "signet", "agent",
        ] {
            std::fs::create_dir_all(folder.path().join("root").join(name)).unwrap();
        }
        let mut tar = Command::new("tar");
        let root = folder.path().join("root");
        tar.arg("-C")
            .arg(root)
            .arg("-cf")
            .arg(folder.path().join("root.tar"))
            .arg(".");
        run(&mut tar).success();
        let address = format!("unix://{at}/podman.sock");
        let mut service = command(folder.path());
        service.args(["system", "service", "-t", "0", &address]);
        let service = Process::start("podman", &mut service);
        let podman = Self { service, folder };
        let archive = podman.folder.path().join("root.tar");
        podman
            .run(&["import", "-q", &archive.display().to_string(), IMAGE])
            .success();
        eventually("podman listens", || {
            podman
                .folder
                .path()
                .join("podman.sock")
                .try_exists()
                .unwrap()
        });
        Some(podman)
    }

    fn run(&self, words: &[&str]) -> Ended {
        run(command(self.folder.path()).args(words))
    }

    fn image_id(&self) -> String {
        let printed = self
            .run(&["image", "inspect", "-f", "{{.Id}}", IMAGE])
            .success();
        printed.trim().to_owned()
    }

    /// Fetches SVIDs from within a container, and returns what is printed.
    fn fetch(&self, place: &Place, more: &[&str]) -> String {
        let program = signet().parent().unwrap().display().to_string();
        let agent = place.folder().display().to_string();
        let mounts = [
            "/usr:/usr:ro".to_owned(),
            "/lib:/lib:ro".to_owned(),
            "/lib64:/lib64:ro".to_owned(),
            format!("{program}:/signet:ro"),
            format!("{agent}:/agent"),
        ];
        let mut words = vec!["run", "--rm", "--network", "none"];
        words.extend(mounts.iter().flat_map(|mount| ["-v", mount.as_str()]));
        words.extend(more);
        words.extend([IMAGE, "/signet/signet", "agent", "api", "fetch", "x509"]);
        words.extend(["-socketPath", "/agent/agent.sock"]);
        let ended = self.run(&words);
        format!("{}{}", ended.stdout, ended.stderr)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.run(&["rm", "-f", "-a", "-t", "0"]);
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", folder.join("containers.conf"));
    command.env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"));
    command
}

fn start(podman: &Podman) -> (Domain, Place, Process) {
    let domain = Plan::new(Signet).ids_alone().start();
    let place = domain.place("");
    let socket = podman.folder.path().join("podman.sock");
    let docker = format!(
        "WorkloadAttestor \"docker\" {{ plugin_data {{ podman_socket_path = \"unix://{}\" }} }}\n    WorkloadAttestor \"unix\"",
        socket.display()
    );
    place.configure("WorkloadAttestor \"unix\"", &docker);
    let agent = place.start();
    place.wait();
    (domain, place, agent)
}

#[test]
fn a_container_of_podman_has_the_identities_of_its_label_variable_and_image() {
    let Some(mut podman) = Podman::start() else {
        return;
    };
    let (domain, place, agent) = start(&podman);
    let digest = format!("docker:image_config_digest:sha256:{}", podman.image_id());
    let image = format!("docker:image_id:{IMAGE}");
    for (path, selector) in [
        ("/label", "docker:label:com.example.name:foo"),
        ("/variable", "docker:env:HUSH=hush-hush"),
        ("/image", image.as_str()),
        ("/digest", digest.as_str()),
        ("/other", "docker:label:com.example.name:bar"),
    ] {
        domain.entry_below(&place.id, path, selector, &[]);
    }
    let told = ["--label", "com.example.name=foo", "-e", "HUSH=hush-hush"];
    let has =
        |printed: &str, path: &str| printed.contains(&format!("spiffe://example.org{path}\n"));
    // The agent hears of the entries in its own time.
    let mut printed = String::new();
    eventually("the container has its identities", || {
        printed = podman.fetch(&place, &told);
        ["/label", "/variable", "/image", "/digest"]
            .iter()
            .all(|path| has(&printed, path))
    });
    assert!(!has(&printed, "/other"), "{printed}");

    let printed = podman.fetch(&place, &["--label", "com.example.name=bar"]);
    assert!(
        has(&printed, "/other") && has(&printed, "/digest"),
        "{printed}"
    );
    assert!(
        !has(&printed, "/label") && !has(&printed, "/variable"),
        "{printed}"
    );

    // A process of the host is in no container.
    let mut fetch = Signet.agent();
    fetch.args(["api", "fetch", "x509", "-socketPath"]);
    let ended = run(fetch.arg(place.folder().join("agent.sock")));
    assert!(
        format!("{}{}", ended.stdout, ended.stderr).contains("no identity issued"),
        "{ended:?}"
    );

    podman.service.stop();
    let printed = podman.fetch(&place, &told);
    assert!(printed.contains("no identity issued"), "{printed}");
    let log = agent.text();
    assert!(
        log.contains("engine_unreachable") || log.contains("engine_broken_off"),
        "{log}"
    );
    assert!(
        !log.contains("hush-hush"),
        "a variable is in the log: {log}"
    );
}
