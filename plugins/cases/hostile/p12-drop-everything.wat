;; P12: a cache policy that keeps nothing.
(module
  (memory (export "memory") 4)
  (global $heap (mut i32) (i32.const 65536))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $len i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $len)))
    (local.get $at))
  (func (export "pureboot:policy/cache@0.1.0#judge")
    (param $id i32) (param $id_len i32) (param $settings i32) (param $settings_len i32)
    (param $is_offline i32) (param $offline_for i32) (param $utc_offset i32)
    (param $now i32) (param $used i32) (param $limit i32)
    (param $items i32) (param $items_len i32) (result i32)
    (local $verdict i32) (local $left i32)
    ;; An optional verdict has 20 bytes; the first says that there is one, and the others are zero: not kept.
    (local.set $left (local.get $items_len))
    (local.set $verdict (i32.const 131072))
    (block $end
      (loop $next
        (br_if $end (i32.eqz (local.get $left)))
        (i32.store8 (local.get $verdict) (i32.const 1))
        (local.set $verdict (i32.add (local.get $verdict) (i32.const 20)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br $next)))
    (i32.store offset=4 (i32.const 1024) (i32.const 131072))
    (i32.store offset=8 (i32.const 1024) (local.get $items_len))
    (i32.const 1024)))
