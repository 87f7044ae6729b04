//! What a component finds when it asks for something: the log, the site's nodes if it was granted them, a stand-in for WASI that is
//! the same at every call, and nothing else.

use wasmtime::component::{
    Component, Linker, Resource, ResourceAny, ResourceType, Val, types::ComponentItem,
};
use wasmtime::{Engine, Result, StoreContextMut, bail};

use crate::contract::{self, Level};
use crate::facts::{NODES_MAX, NodesAsked};
use crate::state::{Severity, State, give_way, pay};

/// The most bytes of chance that one call of a component gets.
const CHANCE_LEN_MAX: u64 = 64 << 10;

/// What a stream takes at once, in bytes.
const STREAM_ROOM: u64 = 4 << 10;

/// Every resource of the stand-in: a stream that ends in the log, or that never has anything.
struct Stub;

/// The last part of a component's import, such as `wasi:io/streams@0.2.3`, in two: the interface without its version, and whose it is.
fn interface(import: &str) -> (&str, &str) {
    let name = import.split('@').next().unwrap_or(import);
    name.split_once('/').unwrap_or((name, ""))
}

/// What a component imports that is neither the contract's nor WASI's, and whether it asks for the nodes.
pub(crate) struct Wanted {
    pub(crate) foreign: Vec<String>,
    pub(crate) nodes: bool,
}

pub(crate) fn wanted(engine: &Engine, component: &Component) -> Wanted {
    let mut wanted = Wanted { foreign: Vec::new(), nodes: false };
    for (import, item) in component.component_type().imports(engine) {
        let known: &[&str] = match interface(import) {
            (contract::PACKAGE, "types") if contract::is_spoken(import) => &[],
            (contract::PACKAGE, "log") if contract::is_spoken(import) => &["log"],
            (contract::PACKAGE, "nodes") if contract::is_spoken(import) => {
                wanted.nodes = true;
                &["get", "in-group"]
            }
            (package, _) if package.starts_with("wasi:") => continue,
            _ => {
                wanted.foreign.push(import.to_owned());
                continue;
            }
        };
        let ComponentItem::ComponentInstance(instance) = item.ty else { continue };
        for (name, item) in instance.exports(engine) {
            if matches!(item.ty, ComponentItem::ComponentFunc(_)) && !known.contains(&name) {
                wanted.foreign.push(format!("{import}#{name}"));
            }
        }
    }
    wanted
}

/// A linker for `component`. What it may not call is not there; what of WASI has no stand-in ends the call that uses it.
pub(crate) fn linker(
    engine: &Engine,
    component: &Component,
    has_nodes: bool,
) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    define_log(&mut linker)?;
    if has_nodes {
        define_nodes(&mut linker)?;
    }
    define_wasi(engine, &mut linker, component)?;
    linker.define_unknown_imports_as_traps(component)?;
    Ok(linker)
}

fn define_log(linker: &mut Linker<State>) -> Result<()> {
    let name = format!("{}/log@{}", contract::PACKAGE, contract::VERSION);
    linker.instance(&name)?.func_wrap_async(
        "log",
        |mut store: StoreContextMut<'_, State>, (level, message): (Level, String)| {
            Box::new(async move {
                pay(&mut store, message.len())?;
                store.data_mut().log.write(level.into(), &message);
                give_way(&mut store).await
            })
        },
    )
}

fn define_nodes(linker: &mut Linker<State>) -> Result<()> {
    let name = format!("{}/nodes@{}", contract::PACKAGE, contract::VERSION);
    let mut nodes = linker.instance(&name)?;
    nodes.func_wrap_async("get", |mut store: StoreContextMut<'_, State>, (mac,): (String,)| {
        Box::new(async move {
            pay(&mut store, mac.len())?;
            let asked = mac.parse().ok().map(NodesAsked::Mac);
            let nodes = asked.map(|asked| store.data_mut().nodes(asked)).unwrap_or_default();
            give_way(&mut store).await?;
            Ok((nodes.first().map(contract::node),))
        })
    })?;
    nodes.func_wrap_async(
        "in-group",
        |mut store: StoreContextMut<'_, State>, (group,): (String,)| {
            Box::new(async move {
                pay(&mut store, group.len())?;
                let nodes = store.data_mut().nodes(NodesAsked::Group(group));
                let nodes: Vec<_> = nodes.iter().take(NODES_MAX).map(contract::node).collect();
                pay(&mut store, std::mem::size_of_val(nodes.as_slice()))?;
                give_way(&mut store).await?;
                Ok((nodes,))
            })
        },
    )
}

/// Gives each interface of WASI that the component names its resources and the functions that have a stand-in, whatever the version.
fn define_wasi(engine: &Engine, linker: &mut Linker<State>, component: &Component) -> Result<()> {
    for (import, item) in component.component_type().imports(engine) {
        let (package, name) = interface(import);
        let (Some(package), ComponentItem::ComponentInstance(instance)) =
            (package.strip_prefix("wasi:"), item.ty)
        else {
            continue;
        };
        let mut defined = linker.instance(import)?;
        for (function, item) in instance.exports(engine) {
            match item.ty {
                ComponentItem::Resource(_) => {
                    defined.resource(function, ResourceType::host::<Stub>(), |_, _| Ok(()))?;
                }
                ComponentItem::ComponentFunc(_) => {
                    if let Some(stand_in) = stand_in(package, name, function) {
                        defined.func_new_async(function, move |store, _, arguments, results| {
                            Box::new(answer(stand_in, store, arguments, results))
                        })?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

async fn answer(
    stand_in: StandIn,
    mut store: StoreContextMut<'_, State>,
    arguments: &[Val],
    results: &mut [Val],
) -> Result<()> {
    pay(&mut store, 0)?;
    let value = stand_in(&mut store, arguments)?;
    if let Some(result) = results.first_mut() {
        *result = value;
    }
    // What was lent for the call has to be given back with it.
    for argument in arguments {
        if let Val::Resource(resource) = argument
            && !resource.owned()
        {
            resource.resource_drop_async(&mut store).await?;
        }
    }
    give_way(&mut store).await
}

type StandIn = fn(&mut StoreContextMut<'_, State>, &[Val]) -> Result<Val>;

fn stand_in(package: &str, interface: &str, function: &str) -> Option<StandIn> {
    Some(match (package, interface, function) {
        ("random", "random", "get-random-bytes")
        | ("random", "insecure", "get-insecure-random-bytes") => random_bytes,
        ("random", "random", "get-random-u64")
        | ("random", "insecure", "get-insecure-random-u64") => {
            |store, _| Ok(Val::U64(next_number(store.data_mut())))
        }
        ("random", "insecure-seed", "insecure-seed") => |store, _| {
            let [low, high] = [next_number(store.data_mut()), next_number(store.data_mut())];
            Ok(Val::Tuple(vec![Val::U64(low), Val::U64(high)]))
        },
        ("cli", "environment", "get-environment" | "get-arguments")
        | ("filesystem", "preopens", "get-directories") => |_, _| Ok(Val::List(Vec::new())),
        ("cli", "environment", "initial-cwd" | "get-initial-cwd")
        | ("cli", "terminal-stdin", "get-terminal-stdin")
        | ("cli", "terminal-stdout", "get-terminal-stdout")
        | ("cli", "terminal-stderr", "get-terminal-stderr") => |_, _| Ok(Val::Option(None)),
        ("cli", "stdin", "get-stdin")
        | ("cli", "stdout", "get-stdout")
        | ("cli", "stderr", "get-stderr") => stream,
        ("cli", "exit", _) => |_, _| bail!("it called exit: a policy answers instead"),
        ("clocks", "wall-clock", "now") => |store, _| Ok(moment(store.data().now.into(), 0)),
        ("clocks", "wall-clock", "resolution") => |_, _| Ok(moment(1, 0)),
        ("clocks", "monotonic-clock", "now") => |_, _| Ok(Val::U64(0)),
        ("clocks", "monotonic-clock", "resolution") => |_, _| Ok(Val::U64(1)),
        ("io", "streams", "[method]output-stream.check-write") => {
            |_, _| Ok(done(Some(Val::U64(STREAM_ROOM))))
        }
        (
            "io",
            "streams",
            "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush",
        ) => write,
        (
            "io",
            "streams",
            "[method]output-stream.flush" | "[method]output-stream.blocking-flush",
        ) => |_, _| Ok(done(None)),
        _ => return None,
    })
}

fn done(value: Option<Val>) -> Val {
    Val::Result(Ok(value.map(Box::new)))
}

fn moment(seconds: u64, nanoseconds: u32) -> Val {
    let seconds = ("seconds".to_owned(), Val::U64(seconds));
    Val::Record(vec![seconds, ("nanoseconds".to_owned(), Val::U32(nanoseconds))])
}

fn stream(store: &mut StoreContextMut<'_, State>, _: &[Val]) -> Result<Val> {
    let stream = Resource::<Stub>::new_own(0);
    Ok(Val::Resource(ResourceAny::try_from_resource(stream, store)?))
}

/// What is printed goes into the log: so the text of a panic is not lost.
fn write(store: &mut StoreContextMut<'_, State>, arguments: &[Val]) -> Result<Val> {
    let Some(Val::List(bytes)) = arguments.get(1) else {
        bail!("a stream is given something else than bytes")
    };
    pay(store, bytes.len())?;
    let bytes: Vec<u8> = bytes
        .iter()
        .filter_map(|byte| if let Val::U8(byte) = byte { Some(*byte) } else { None })
        .collect();
    store.data_mut().log.write(Severity::Info, &String::from_utf8_lossy(&bytes));
    Ok(done(None))
}

fn random_bytes(store: &mut StoreContextMut<'_, State>, arguments: &[Val]) -> Result<Val> {
    let Some(Val::U64(len @ 0..=CHANCE_LEN_MAX)) = arguments.first() else {
        bail!("it asks for more than {CHANCE_LEN_MAX} random bytes at once");
    };
    let len = usize::try_from(*len)?;
    pay(store, len)?;
    let number = || Some(next_number(store.data_mut()).to_le_bytes());
    Ok(Val::List(std::iter::from_fn(number).flatten().take(len).map(Val::U8).collect()))
}

/// Steele, Lea and Flood's SplitMix64: the same numbers in every call.
fn next_number(state: &mut State) -> u64 {
    state.number = state.number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state.number ^ (state.number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
