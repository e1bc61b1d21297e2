use superstep::compile::*;
use superstep::frontend::model::CacheShape;
use superstep::frontend::preset;
use superstep::precision::Precision;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let config = preset("gpt2").unwrap().with_overrides(&a[1]).unwrap();
    let n = |i: usize| a[i].parse::<usize>().unwrap();
    let shape = CacheShape {
        batch: n(2),
        prompt: n(3),
        positions: n(4),
    };
    let prec = if a[5] == "f32" {
        Precision::F32
    } else {
        Precision::F16Partials16
    };
    let p = compile_generation(
        &config,
        &machine_named(None).unwrap(),
        prec,
        shape,
        &PlanCache::none(),
    )
    .unwrap();
    println!("ipus {}", p.ipus);
    let t = superstep_runtime::timeline::timeline(&p);
    for part in ["prefill", "decode"] {
        println!("{part} {:?}", t.procedure(part).map(|x| x.cycles));
    }
    let r = p.step_ranges();
    let dec = p.parts[1];
    let range = r[dec.index()].clone().unwrap();
    for s in &t.steps {
        if range.contains(&s.index) && s.cycles > 0 {
            println!(
                "{:>7} {:>8} {:?} tiles {} bytes {}  {}",
                s.index, s.cycles, s.kind, s.tiles, s.bytes, s.name
            );
        }
    }
}
