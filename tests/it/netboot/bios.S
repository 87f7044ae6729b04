/* The smallest thing that a BIOS boot loader takes for Linux: a real-mode program behind the header of
   Documentation/arch/x86/boot.rst (protocol 2.02). It says its command line on the first serial port and stops. */

        .code16
        .text
base:
        .org    0x1f1
        .byte   1                       /* setup_sects */
        .word   0                       /* root_flags */
        .long   1                       /* syssize, in units of 16 bytes */
        .word   0, 0, 0                 /* ram_size, vid_mode, root_dev */
        .word   0xaa55                  /* boot_flag */

        jmp     start                   /* 0x200: where the loader jumps to */
        .org    0x202
        .ascii  "HdrS"
        .word   0x0202                  /* version */
        .long   0                       /* realmode_swtch */
        .word   0, 0                    /* start_sys_seg, kernel_version */
        .byte   0, 1                    /* type_of_loader, loadflags: LOADED_HIGH */
        .word   0                       /* setup_move_size */
        .long   0x100000                /* code32_start */
        .long   0, 0, 0                 /* ramdisk_image, ramdisk_size, bootsect_kludge */
        .word   0, 0                    /* heap_end_ptr, ext_loader_ver and _type */
cmd_line_ptr:
        .long   0

start:
        cld
        movw    $(text - base), %si
        call    say
        movl    (cmd_line_ptr - base), %eax
        movw    %ax, %si
        andw    $15, %si
        shrl    $4, %eax
        movw    %ax, %ds
        call    say
        movw    %cs, %ax                /* cs is 0x20 above the segment of the header */
        subw    $0x20, %ax
        movw    %ax, %ds
        movw    $(end - base), %si
        call    say
1:      hlt
        jmp     1b

say:    lodsb
        testb   %al, %al
        jz      2f
        movb    %al, %ah
        movw    $0x3fd, %dx
1:      inb     %dx, %al
        testb   $0x20, %al              /* transmitter empty */
        jz      1b
        movb    %ah, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        jmp     say
2:      ret

text:   .asciz  "\r\npayload: "
end:    .asciz  "\r\n"
        .org    0x410                   /* two sectors of setup, 16 bytes of kernel */
