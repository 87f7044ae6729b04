;; P5: divides by zero.
(module
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $len)))
    (local.get $at))
  (func (export "pureboot:policy/boot@0.1.0#decide") (param $request i32) (result i32)
    (i32.div_u (i32.const 1) (i32.const 0))))
