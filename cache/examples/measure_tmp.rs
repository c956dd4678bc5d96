use barn_cache::*;
use barn_protocol::*;
use std::time::Instant;
fn rss(w: &str) {
    let t = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in t.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")) {
        println!("   {w} {l}");
    }
}
fn main() {
    let n: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let dir = std::path::PathBuf::from(std::env::args().nth(2).unwrap());
    let lim = |b| Limits { free_bytes_min: 0, ..Limits::new(b) };
    let t = Instant::now();
    let s = Store::open(&dir, lim(1 << 40)).unwrap();
    println!("open empty {:?}", t.elapsed());
    if n == 0 {
        rss("just open");
        return;
    }
    let tc = Digest::of(b"tc");
    let id = Identity::from_seed(&[1; 32]);
    let signed = id.sign("t", vec![7; 400]);
    let c = |i: u64| i.to_le_bytes().repeat(500);
    let err = s.put_bytes(b"").unwrap().digest;
    let mut worst = std::time::Duration::ZERO;
    let t = Instant::now();
    for i in 0..n {
        let t1 = Instant::now();
        let b = s.put_bytes(&c(i)).unwrap().digest;
        s.put_record(&ActionKey(Digest::of(&i.to_le_bytes())), &tc, &signed, &[b, err]).unwrap();
        s.put_manifest(&Digest::of(&(i + 1).to_be_bytes()), &tc, &i.to_le_bytes().repeat(300)).unwrap();
        worst = worst.max(t1.elapsed());
    }
    println!("put {n} actions {:?} each {:?} worst {:?}", t.elapsed(), t.elapsed() / n as u32, worst);
    rss("a");
    println!("{:?}", s.stat());
    let t = Instant::now();
    let mut worst = std::time::Duration::ZERO;
    for i in 0..10000 {
        let i = (i * 7919) % n;
        let t1 = Instant::now();
        let k = ActionKey(Digest::of(&i.to_le_bytes()));
        assert_eq!(s.manifests(&Digest::of(&(i + 1).to_be_bytes())).len(), 1);
        s.record(&k).unwrap();
        s.open_blob(&Digest::of(&c(i))).unwrap();
        worst = worst.max(t1.elapsed());
    }
    println!("hit {:?} worst {:?}", t.elapsed() / 10000, worst);
    let t = Instant::now();
    drop(s);
    println!("close {:?}", t.elapsed());
    let t = Instant::now();
    let s = Store::open(&dir, lim(1 << 40)).unwrap();
    rss("c");
    println!("open clean {:?}", t.elapsed());
    drop(s);
    std::fs::remove_file(dir.join("index-v1/clean")).unwrap();
    println!(
        "index du: {}",
        String::from_utf8_lossy(
            &std::process::Command::new("du").arg("-sm").arg(dir.join("index-v1")).output().unwrap().stdout
        )
    );
    let t = Instant::now();
    let s = Store::open(&dir, lim(1 << 40)).unwrap();
    rss("b");
    println!("open rebuild {:?}", t.elapsed());
    rss("a");
    println!("{:?}", s.stat());
    let used = s.stat().bytes;
    drop(s);
    println!(
        "index du: {}",
        String::from_utf8_lossy(
            &std::process::Command::new("du").arg("-sm").arg(dir.join("index-v1")).output().unwrap().stdout
        )
    );
    let s = Store::open(&dir, lim(used)).unwrap();
    let mut worst = std::time::Duration::ZERO;
    let t = Instant::now();
    for i in n..2 * n {
        let t1 = Instant::now();
        let b = s.put_bytes(&c(i)).unwrap().digest;
        s.put_record(&ActionKey(Digest::of(&i.to_le_bytes())), &tc, &signed, &[b, err]).unwrap();
        worst = worst.max(t1.elapsed());
    }
    println!("put evicting {:?} each worst {:?}", t.elapsed() / n as u32, worst);
    rss("a");
    println!("{:?}", s.stat());
    let t = Instant::now();
    drop(s);
    println!("close {:?}", t.elapsed());
    println!(
        "index du: {}",
        String::from_utf8_lossy(
            &std::process::Command::new("du").arg("-sm").arg(dir.join("index-v1")).output().unwrap().stdout
        )
    );
    println!(
        "rss {}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .find(|l| l.starts_with("VmHWM"))
            .unwrap()
    );
}
