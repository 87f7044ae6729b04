/* The smallest UEFI program (PE32+, UEFI 2.10 §4.1): it says the command line that it was loaded with on the first serial
   port and stops. */

        .code64
        .text
base:
        .ascii  "MZ"
        .org    0x3c
        .long   pe - base
pe:     .ascii  "PE\0\0"
        .word   0x8664, 1               /* x86-64, one section */
        .long   0, 0, 0
        .word   sections - optional, 0x206
optional:
        .word   0x20b, 0
        .long   end - code, 0, 0        /* sizes of code and data */
        .long   code - base, code - base
        .quad   0                       /* image base: anywhere */
        .long   0x200, 0x200            /* alignment in memory and in the file */
        .word   0, 0, 0, 0, 0, 0
        .long   0
        .long   end - base, code - base /* sizes of image and headers */
        .long   0
        .word   10, 0                   /* subsystem: EFI application */
        .quad   0, 0, 0, 0
        .long   0, 16
        .fill   16, 8, 0                /* directories, all empty: nothing to relocate */
sections:
        .ascii  ".text\0\0\0"
        .long   end - code, code - base, end - code, code - base
        .long   0, 0
        .word   0, 0
        .long   0x60000020

        .org    0x200
code:   subq    $0x38, %rsp
        movq    96(%rdx), %rax          /* EFI_SYSTEM_TABLE.BootServices */
        leaq    loaded_image(%rip), %rdx
        leaq    0x28(%rsp), %r8
        callq   *152(%rax)              /* HandleProtocol */
        leaq    text(%rip), %rsi
1:      lodsb
        testb   %al, %al
        jz      2f
        call    say
        jmp     1b
2:      movq    0x28(%rsp), %rbx
        movl    48(%rbx), %ecx          /* EFI_LOADED_IMAGE_PROTOCOL.LoadOptionsSize, in bytes */
        shrl    $1, %ecx
        movq    56(%rbx), %rsi          /* LoadOptions, UCS-2 */
3:      jrcxz   4f
        lodsw
        testb   %al, %al
        jz      4f
        call    say
        decq    %rcx
        jmp     3b
4:      movb    $'\n', %al
        call    say
5:      hlt
        jmp     5b

say:    movb    %al, %ah
        movw    $0x3fd, %dx
6:      inb     %dx, %al
        testb   $0x20, %al
        jz      6b
        movb    %ah, %al
        movw    $0x3f8, %dx
        outb    %al, %dx
        ret

        .balign 8
loaded_image:                           /* 5B1B31A1-9562-11D2-8E3F-00A0C969723B */
        .long   0x5b1b31a1
        .word   0x9562, 0x11d2
        .byte   0x8e, 0x3f, 0x00, 0xa0, 0xc9, 0x69, 0x72, 0x3b
text:   .asciz  "\r\npayload: "
        .org    0x400
end:
