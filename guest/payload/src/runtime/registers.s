# Ring 3: fills every register of a CPU with given values, lets time pass, and stores what is in them then.
# `hold_registers(hold, waits)`: RDI = Hold (see registers.rs), ESI = 0: count RCX down; 1: pass the gate that R11 names.

.set IN_FLAGS,   120
.set IN_VECTOR,  128
.set IN_X87,     640
.set IN_MXCSR,   704
.set IN_FCW,     708
.set HAS_AVX,    712
.set OUT,        768
.set OUT_FLAGS,  768 + 120
.set OUT_VECTOR, 768 + 128
.set OUT_X87,    768 + 640
.set OUT_MXCSR,  768 + 704
.set OUT_FCW,    768 + 708
.set STACK_IN,   768 + 712
.set STACK_OUT,  768 + 720

.macro load_general_registers
    mov rax, [r15]
    mov rbx, [r15 + 8]
    mov rcx, [r15 + 16]
    mov rdx, [r15 + 24]
    mov rsi, [r15 + 32]
    mov rdi, [r15 + 40]
    mov rbp, [r15 + 48]
    mov r8,  [r15 + 56]
    mov r9,  [r15 + 64]
    mov r10, [r15 + 72]
    mov r11, [r15 + 80]
    mov r12, [r15 + 88]
    mov r13, [r15 + 96]
    mov r14, [r15 + 104]
    mov r15, [r15 + 112]
.endm

.section .text.registers, "ax", @progbits
.code64
.global hold_registers
hold_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov r15, rdi
    mov r14d, esi

    fninit
    fldcw [r15 + IN_FCW]
    ldmxcsr [r15 + IN_MXCSR]
    .irp i, 7, 6, 5, 4, 3, 2, 1, 0
    fld qword ptr [r15 + IN_X87 + 8 * \i]
    .endr
    test qword ptr [r15 + HAS_AVX], 1
    jz 1f
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu ymm\i, [r15 + IN_VECTOR + 32 * \i]
    .endr
    jmp 2f
1:  .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu xmm\i, [r15 + IN_VECTOR + 32 * \i]
    .endr
2:  mov [r15 + STACK_IN], rsp
    test r14d, r14d
    jnz 4f

    push qword ptr [r15 + IN_FLAGS]
    popfq
    load_general_registers
3:  dec rcx                         # leaves the carry flag alone
    jnz 3b
    jmp 5f

4:  push qword ptr [r15 + IN_FLAGS]
    popfq
    load_general_registers
    ud2                             # a gate

5:  push rax
    pushfq
    cld
    mov rax, [rsp + 16]
    mov [rax + OUT + 8], rbx
    mov [rax + OUT + 16], rcx
    mov [rax + OUT + 24], rdx
    mov [rax + OUT + 32], rsi
    mov [rax + OUT + 40], rdi
    mov [rax + OUT + 48], rbp
    mov [rax + OUT + 56], r8
    mov [rax + OUT + 64], r9
    mov [rax + OUT + 72], r10
    mov [rax + OUT + 80], r11
    mov [rax + OUT + 88], r12
    mov [rax + OUT + 96], r13
    mov [rax + OUT + 104], r14
    mov [rax + OUT + 112], r15
    pop rbx
    mov [rax + OUT_FLAGS], rbx
    pop rbx
    mov [rax + OUT], rbx
    mov [rax + STACK_OUT], rsp
    mov r15, rax

    stmxcsr [r15 + OUT_MXCSR]
    fnstcw [r15 + OUT_FCW]
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7
    fstp qword ptr [r15 + OUT_X87 + 8 * \i]
    .endr
    test qword ptr [r15 + HAS_AVX], 1
    jz 6f
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu [r15 + OUT_VECTOR + 32 * \i], ymm\i
    .endr
    vzeroupper
    jmp 7f
6:  .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu [r15 + OUT_VECTOR + 32 * \i], xmm\i
    .endr
7:  fninit
    push 0x1f80
    ldmxcsr [rsp]
    pop rax
    pop rdi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
