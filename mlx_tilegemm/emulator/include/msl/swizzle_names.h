// Every swizzle name of a vector of 2, 3 or 4 components, by the lowest component it names:
// S(xyzw spelling, rgba spelling, kind, count, indices relative to that component...).
// Kinds: `ordered` and `range` name each component between their lowest and highest once, `ordered`
// from the lowest up; `gapped` leaves some out, `repeated` names one twice. The storage of a
// swizzle spans `count` components.
#pragma once

#define MSL_SWIZZLES2_X(S) \
  S(xx, rr, repeated, 1, 0, 0) S(xy, rg, ordered, 2, 0, 1) S(yx, gr, range, 2, 1, 0) \
  S(xxx, rrr, repeated, 1, 0, 0, 0) S(xxy, rrg, repeated, 2, 0, 0, 1) \
  S(xyx, rgr, repeated, 2, 0, 1, 0) S(xyy, rgg, repeated, 2, 0, 1, 1) \
  S(yxx, grr, repeated, 2, 1, 0, 0) S(yxy, grg, repeated, 2, 1, 0, 1) \
  S(yyx, ggr, repeated, 2, 1, 1, 0) S(xxxx, rrrr, repeated, 1, 0, 0, 0, 0) \
  S(xxxy, rrrg, repeated, 2, 0, 0, 0, 1) S(xxyx, rrgr, repeated, 2, 0, 0, 1, 0) \
  S(xxyy, rrgg, repeated, 2, 0, 0, 1, 1) S(xyxx, rgrr, repeated, 2, 0, 1, 0, 0) \
  S(xyxy, rgrg, repeated, 2, 0, 1, 0, 1) S(xyyx, rggr, repeated, 2, 0, 1, 1, 0) \
  S(xyyy, rggg, repeated, 2, 0, 1, 1, 1) S(yxxx, grrr, repeated, 2, 1, 0, 0, 0) \
  S(yxxy, grrg, repeated, 2, 1, 0, 0, 1) S(yxyx, grgr, repeated, 2, 1, 0, 1, 0) \
  S(yxyy, grgg, repeated, 2, 1, 0, 1, 1) S(yyxx, ggrr, repeated, 2, 1, 1, 0, 0) \
  S(yyxy, ggrg, repeated, 2, 1, 1, 0, 1) S(yyyx, gggr, repeated, 2, 1, 1, 1, 0)

#define MSL_SWIZZLES2_Y(S) \
  S(yy, gg, repeated, 1, 0, 0) S(yyy, ggg, repeated, 1, 0, 0, 0) \
  S(yyyy, gggg, repeated, 1, 0, 0, 0, 0)

#define MSL_SWIZZLES3_X(S) \
  S(xx, rr, repeated, 1, 0, 0) S(xy, rg, ordered, 2, 0, 1) S(xz, rb, gapped, 3, 0, 2) \
  S(yx, gr, range, 2, 1, 0) S(zx, br, gapped, 3, 2, 0) S(xxx, rrr, repeated, 1, 0, 0, 0) \
  S(xxy, rrg, repeated, 2, 0, 0, 1) S(xxz, rrb, repeated, 3, 0, 0, 2) \
  S(xyx, rgr, repeated, 2, 0, 1, 0) S(xyy, rgg, repeated, 2, 0, 1, 1) \
  S(xyz, rgb, ordered, 3, 0, 1, 2) S(xzx, rbr, repeated, 3, 0, 2, 0) \
  S(xzy, rbg, range, 3, 0, 2, 1) S(xzz, rbb, repeated, 3, 0, 2, 2) \
  S(yxx, grr, repeated, 2, 1, 0, 0) S(yxy, grg, repeated, 2, 1, 0, 1) \
  S(yxz, grb, range, 3, 1, 0, 2) S(yyx, ggr, repeated, 2, 1, 1, 0) \
  S(yzx, gbr, range, 3, 1, 2, 0) S(zxx, brr, repeated, 3, 2, 0, 0) \
  S(zxy, brg, range, 3, 2, 0, 1) S(zxz, brb, repeated, 3, 2, 0, 2) \
  S(zyx, bgr, range, 3, 2, 1, 0) S(zzx, bbr, repeated, 3, 2, 2, 0) \
  S(xxxx, rrrr, repeated, 1, 0, 0, 0, 0) S(xxxy, rrrg, repeated, 2, 0, 0, 0, 1) \
  S(xxxz, rrrb, repeated, 3, 0, 0, 0, 2) S(xxyx, rrgr, repeated, 2, 0, 0, 1, 0) \
  S(xxyy, rrgg, repeated, 2, 0, 0, 1, 1) S(xxyz, rrgb, repeated, 3, 0, 0, 1, 2) \
  S(xxzx, rrbr, repeated, 3, 0, 0, 2, 0) S(xxzy, rrbg, repeated, 3, 0, 0, 2, 1) \
  S(xxzz, rrbb, repeated, 3, 0, 0, 2, 2) S(xyxx, rgrr, repeated, 2, 0, 1, 0, 0) \
  S(xyxy, rgrg, repeated, 2, 0, 1, 0, 1) S(xyxz, rgrb, repeated, 3, 0, 1, 0, 2) \
  S(xyyx, rggr, repeated, 2, 0, 1, 1, 0) S(xyyy, rggg, repeated, 2, 0, 1, 1, 1) \
  S(xyyz, rggb, repeated, 3, 0, 1, 1, 2) S(xyzx, rgbr, repeated, 3, 0, 1, 2, 0) \
  S(xyzy, rgbg, repeated, 3, 0, 1, 2, 1) S(xyzz, rgbb, repeated, 3, 0, 1, 2, 2) \
  S(xzxx, rbrr, repeated, 3, 0, 2, 0, 0) S(xzxy, rbrg, repeated, 3, 0, 2, 0, 1) \
  S(xzxz, rbrb, repeated, 3, 0, 2, 0, 2) S(xzyx, rbgr, repeated, 3, 0, 2, 1, 0) \
  S(xzyy, rbgg, repeated, 3, 0, 2, 1, 1) S(xzyz, rbgb, repeated, 3, 0, 2, 1, 2) \
  S(xzzx, rbbr, repeated, 3, 0, 2, 2, 0) S(xzzy, rbbg, repeated, 3, 0, 2, 2, 1) \
  S(xzzz, rbbb, repeated, 3, 0, 2, 2, 2) S(yxxx, grrr, repeated, 2, 1, 0, 0, 0) \
  S(yxxy, grrg, repeated, 2, 1, 0, 0, 1) S(yxxz, grrb, repeated, 3, 1, 0, 0, 2) \
  S(yxyx, grgr, repeated, 2, 1, 0, 1, 0) S(yxyy, grgg, repeated, 2, 1, 0, 1, 1) \
  S(yxyz, grgb, repeated, 3, 1, 0, 1, 2) S(yxzx, grbr, repeated, 3, 1, 0, 2, 0) \
  S(yxzy, grbg, repeated, 3, 1, 0, 2, 1) S(yxzz, grbb, repeated, 3, 1, 0, 2, 2) \
  S(yyxx, ggrr, repeated, 2, 1, 1, 0, 0) S(yyxy, ggrg, repeated, 2, 1, 1, 0, 1) \
  S(yyxz, ggrb, repeated, 3, 1, 1, 0, 2) S(yyyx, gggr, repeated, 2, 1, 1, 1, 0) \
  S(yyzx, ggbr, repeated, 3, 1, 1, 2, 0) S(yzxx, gbrr, repeated, 3, 1, 2, 0, 0) \
  S(yzxy, gbrg, repeated, 3, 1, 2, 0, 1) S(yzxz, gbrb, repeated, 3, 1, 2, 0, 2) \
  S(yzyx, gbgr, repeated, 3, 1, 2, 1, 0) S(yzzx, gbbr, repeated, 3, 1, 2, 2, 0) \
  S(zxxx, brrr, repeated, 3, 2, 0, 0, 0) S(zxxy, brrg, repeated, 3, 2, 0, 0, 1) \
  S(zxxz, brrb, repeated, 3, 2, 0, 0, 2) S(zxyx, brgr, repeated, 3, 2, 0, 1, 0) \
  S(zxyy, brgg, repeated, 3, 2, 0, 1, 1) S(zxyz, brgb, repeated, 3, 2, 0, 1, 2) \
  S(zxzx, brbr, repeated, 3, 2, 0, 2, 0) S(zxzy, brbg, repeated, 3, 2, 0, 2, 1) \
  S(zxzz, brbb, repeated, 3, 2, 0, 2, 2) S(zyxx, bgrr, repeated, 3, 2, 1, 0, 0) \
  S(zyxy, bgrg, repeated, 3, 2, 1, 0, 1) S(zyxz, bgrb, repeated, 3, 2, 1, 0, 2) \
  S(zyyx, bggr, repeated, 3, 2, 1, 1, 0) S(zyzx, bgbr, repeated, 3, 2, 1, 2, 0) \
  S(zzxx, bbrr, repeated, 3, 2, 2, 0, 0) S(zzxy, bbrg, repeated, 3, 2, 2, 0, 1) \
  S(zzxz, bbrb, repeated, 3, 2, 2, 0, 2) S(zzyx, bbgr, repeated, 3, 2, 2, 1, 0) \
  S(zzzx, bbbr, repeated, 3, 2, 2, 2, 0)

#define MSL_SWIZZLES3_Y(S) \
  S(yy, gg, repeated, 1, 0, 0) S(yz, gb, ordered, 2, 0, 1) S(zy, bg, range, 2, 1, 0) \
  S(yyy, ggg, repeated, 1, 0, 0, 0) S(yyz, ggb, repeated, 2, 0, 0, 1) \
  S(yzy, gbg, repeated, 2, 0, 1, 0) S(yzz, gbb, repeated, 2, 0, 1, 1) \
  S(zyy, bgg, repeated, 2, 1, 0, 0) S(zyz, bgb, repeated, 2, 1, 0, 1) \
  S(zzy, bbg, repeated, 2, 1, 1, 0) S(yyyy, gggg, repeated, 1, 0, 0, 0, 0) \
  S(yyyz, gggb, repeated, 2, 0, 0, 0, 1) S(yyzy, ggbg, repeated, 2, 0, 0, 1, 0) \
  S(yyzz, ggbb, repeated, 2, 0, 0, 1, 1) S(yzyy, gbgg, repeated, 2, 0, 1, 0, 0) \
  S(yzyz, gbgb, repeated, 2, 0, 1, 0, 1) S(yzzy, gbbg, repeated, 2, 0, 1, 1, 0) \
  S(yzzz, gbbb, repeated, 2, 0, 1, 1, 1) S(zyyy, bggg, repeated, 2, 1, 0, 0, 0) \
  S(zyyz, bggb, repeated, 2, 1, 0, 0, 1) S(zyzy, bgbg, repeated, 2, 1, 0, 1, 0) \
  S(zyzz, bgbb, repeated, 2, 1, 0, 1, 1) S(zzyy, bbgg, repeated, 2, 1, 1, 0, 0) \
  S(zzyz, bbgb, repeated, 2, 1, 1, 0, 1) S(zzzy, bbbg, repeated, 2, 1, 1, 1, 0)

#define MSL_SWIZZLES3_Z(S) \
  S(zz, bb, repeated, 1, 0, 0) S(zzz, bbb, repeated, 1, 0, 0, 0) \
  S(zzzz, bbbb, repeated, 1, 0, 0, 0, 0)

#define MSL_SWIZZLES4_X(S) \
  S(xx, rr, repeated, 1, 0, 0) S(xy, rg, ordered, 2, 0, 1) S(xz, rb, gapped, 3, 0, 2) \
  S(xw, ra, gapped, 4, 0, 3) S(yx, gr, range, 2, 1, 0) S(zx, br, gapped, 3, 2, 0) \
  S(wx, ar, gapped, 4, 3, 0) S(xxx, rrr, repeated, 1, 0, 0, 0) \
  S(xxy, rrg, repeated, 2, 0, 0, 1) S(xxz, rrb, repeated, 3, 0, 0, 2) \
  S(xxw, rra, repeated, 4, 0, 0, 3) S(xyx, rgr, repeated, 2, 0, 1, 0) \
  S(xyy, rgg, repeated, 2, 0, 1, 1) S(xyz, rgb, ordered, 3, 0, 1, 2) \
  S(xyw, rga, gapped, 4, 0, 1, 3) S(xzx, rbr, repeated, 3, 0, 2, 0) \
  S(xzy, rbg, range, 3, 0, 2, 1) S(xzz, rbb, repeated, 3, 0, 2, 2) \
  S(xzw, rba, gapped, 4, 0, 2, 3) S(xwx, rar, repeated, 4, 0, 3, 0) \
  S(xwy, rag, gapped, 4, 0, 3, 1) S(xwz, rab, gapped, 4, 0, 3, 2) \
  S(xww, raa, repeated, 4, 0, 3, 3) S(yxx, grr, repeated, 2, 1, 0, 0) \
  S(yxy, grg, repeated, 2, 1, 0, 1) S(yxz, grb, range, 3, 1, 0, 2) \
  S(yxw, gra, gapped, 4, 1, 0, 3) S(yyx, ggr, repeated, 2, 1, 1, 0) \
  S(yzx, gbr, range, 3, 1, 2, 0) S(ywx, gar, gapped, 4, 1, 3, 0) \
  S(zxx, brr, repeated, 3, 2, 0, 0) S(zxy, brg, range, 3, 2, 0, 1) \
  S(zxz, brb, repeated, 3, 2, 0, 2) S(zxw, bra, gapped, 4, 2, 0, 3) \
  S(zyx, bgr, range, 3, 2, 1, 0) S(zzx, bbr, repeated, 3, 2, 2, 0) \
  S(zwx, bar, gapped, 4, 2, 3, 0) S(wxx, arr, repeated, 4, 3, 0, 0) \
  S(wxy, arg, gapped, 4, 3, 0, 1) S(wxz, arb, gapped, 4, 3, 0, 2) \
  S(wxw, ara, repeated, 4, 3, 0, 3) S(wyx, agr, gapped, 4, 3, 1, 0) \
  S(wzx, abr, gapped, 4, 3, 2, 0) S(wwx, aar, repeated, 4, 3, 3, 0) \
  S(xxxx, rrrr, repeated, 1, 0, 0, 0, 0) S(xxxy, rrrg, repeated, 2, 0, 0, 0, 1) \
  S(xxxz, rrrb, repeated, 3, 0, 0, 0, 2) S(xxxw, rrra, repeated, 4, 0, 0, 0, 3) \
  S(xxyx, rrgr, repeated, 2, 0, 0, 1, 0) S(xxyy, rrgg, repeated, 2, 0, 0, 1, 1) \
  S(xxyz, rrgb, repeated, 3, 0, 0, 1, 2) S(xxyw, rrga, repeated, 4, 0, 0, 1, 3) \
  S(xxzx, rrbr, repeated, 3, 0, 0, 2, 0) S(xxzy, rrbg, repeated, 3, 0, 0, 2, 1) \
  S(xxzz, rrbb, repeated, 3, 0, 0, 2, 2) S(xxzw, rrba, repeated, 4, 0, 0, 2, 3) \
  S(xxwx, rrar, repeated, 4, 0, 0, 3, 0) S(xxwy, rrag, repeated, 4, 0, 0, 3, 1) \
  S(xxwz, rrab, repeated, 4, 0, 0, 3, 2) S(xxww, rraa, repeated, 4, 0, 0, 3, 3) \
  S(xyxx, rgrr, repeated, 2, 0, 1, 0, 0) S(xyxy, rgrg, repeated, 2, 0, 1, 0, 1) \
  S(xyxz, rgrb, repeated, 3, 0, 1, 0, 2) S(xyxw, rgra, repeated, 4, 0, 1, 0, 3) \
  S(xyyx, rggr, repeated, 2, 0, 1, 1, 0) S(xyyy, rggg, repeated, 2, 0, 1, 1, 1) \
  S(xyyz, rggb, repeated, 3, 0, 1, 1, 2) S(xyyw, rgga, repeated, 4, 0, 1, 1, 3) \
  S(xyzx, rgbr, repeated, 3, 0, 1, 2, 0) S(xyzy, rgbg, repeated, 3, 0, 1, 2, 1) \
  S(xyzz, rgbb, repeated, 3, 0, 1, 2, 2) S(xyzw, rgba, ordered, 4, 0, 1, 2, 3) \
  S(xywx, rgar, repeated, 4, 0, 1, 3, 0) S(xywy, rgag, repeated, 4, 0, 1, 3, 1) \
  S(xywz, rgab, range, 4, 0, 1, 3, 2) S(xyww, rgaa, repeated, 4, 0, 1, 3, 3) \
  S(xzxx, rbrr, repeated, 3, 0, 2, 0, 0) S(xzxy, rbrg, repeated, 3, 0, 2, 0, 1) \
  S(xzxz, rbrb, repeated, 3, 0, 2, 0, 2) S(xzxw, rbra, repeated, 4, 0, 2, 0, 3) \
  S(xzyx, rbgr, repeated, 3, 0, 2, 1, 0) S(xzyy, rbgg, repeated, 3, 0, 2, 1, 1) \
  S(xzyz, rbgb, repeated, 3, 0, 2, 1, 2) S(xzyw, rbga, range, 4, 0, 2, 1, 3) \
  S(xzzx, rbbr, repeated, 3, 0, 2, 2, 0) S(xzzy, rbbg, repeated, 3, 0, 2, 2, 1) \
  S(xzzz, rbbb, repeated, 3, 0, 2, 2, 2) S(xzzw, rbba, repeated, 4, 0, 2, 2, 3) \
  S(xzwx, rbar, repeated, 4, 0, 2, 3, 0) S(xzwy, rbag, range, 4, 0, 2, 3, 1) \
  S(xzwz, rbab, repeated, 4, 0, 2, 3, 2) S(xzww, rbaa, repeated, 4, 0, 2, 3, 3) \
  S(xwxx, rarr, repeated, 4, 0, 3, 0, 0) S(xwxy, rarg, repeated, 4, 0, 3, 0, 1) \
  S(xwxz, rarb, repeated, 4, 0, 3, 0, 2) S(xwxw, rara, repeated, 4, 0, 3, 0, 3) \
  S(xwyx, ragr, repeated, 4, 0, 3, 1, 0) S(xwyy, ragg, repeated, 4, 0, 3, 1, 1) \
  S(xwyz, ragb, range, 4, 0, 3, 1, 2) S(xwyw, raga, repeated, 4, 0, 3, 1, 3) \
  S(xwzx, rabr, repeated, 4, 0, 3, 2, 0) S(xwzy, rabg, range, 4, 0, 3, 2, 1) \
  S(xwzz, rabb, repeated, 4, 0, 3, 2, 2) S(xwzw, raba, repeated, 4, 0, 3, 2, 3) \
  S(xwwx, raar, repeated, 4, 0, 3, 3, 0) S(xwwy, raag, repeated, 4, 0, 3, 3, 1) \
  S(xwwz, raab, repeated, 4, 0, 3, 3, 2) S(xwww, raaa, repeated, 4, 0, 3, 3, 3) \
  S(yxxx, grrr, repeated, 2, 1, 0, 0, 0) S(yxxy, grrg, repeated, 2, 1, 0, 0, 1) \
  S(yxxz, grrb, repeated, 3, 1, 0, 0, 2) S(yxxw, grra, repeated, 4, 1, 0, 0, 3) \
  S(yxyx, grgr, repeated, 2, 1, 0, 1, 0) S(yxyy, grgg, repeated, 2, 1, 0, 1, 1) \
  S(yxyz, grgb, repeated, 3, 1, 0, 1, 2) S(yxyw, grga, repeated, 4, 1, 0, 1, 3) \
  S(yxzx, grbr, repeated, 3, 1, 0, 2, 0) S(yxzy, grbg, repeated, 3, 1, 0, 2, 1) \
  S(yxzz, grbb, repeated, 3, 1, 0, 2, 2) S(yxzw, grba, range, 4, 1, 0, 2, 3) \
  S(yxwx, grar, repeated, 4, 1, 0, 3, 0) S(yxwy, grag, repeated, 4, 1, 0, 3, 1) \
  S(yxwz, grab, range, 4, 1, 0, 3, 2) S(yxww, graa, repeated, 4, 1, 0, 3, 3) \
  S(yyxx, ggrr, repeated, 2, 1, 1, 0, 0) S(yyxy, ggrg, repeated, 2, 1, 1, 0, 1) \
  S(yyxz, ggrb, repeated, 3, 1, 1, 0, 2) S(yyxw, ggra, repeated, 4, 1, 1, 0, 3) \
  S(yyyx, gggr, repeated, 2, 1, 1, 1, 0) S(yyzx, ggbr, repeated, 3, 1, 1, 2, 0) \
  S(yywx, ggar, repeated, 4, 1, 1, 3, 0) S(yzxx, gbrr, repeated, 3, 1, 2, 0, 0) \
  S(yzxy, gbrg, repeated, 3, 1, 2, 0, 1) S(yzxz, gbrb, repeated, 3, 1, 2, 0, 2) \
  S(yzxw, gbra, range, 4, 1, 2, 0, 3) S(yzyx, gbgr, repeated, 3, 1, 2, 1, 0) \
  S(yzzx, gbbr, repeated, 3, 1, 2, 2, 0) S(yzwx, gbar, range, 4, 1, 2, 3, 0) \
  S(ywxx, garr, repeated, 4, 1, 3, 0, 0) S(ywxy, garg, repeated, 4, 1, 3, 0, 1) \
  S(ywxz, garb, range, 4, 1, 3, 0, 2) S(ywxw, gara, repeated, 4, 1, 3, 0, 3) \
  S(ywyx, gagr, repeated, 4, 1, 3, 1, 0) S(ywzx, gabr, range, 4, 1, 3, 2, 0) \
  S(ywwx, gaar, repeated, 4, 1, 3, 3, 0) S(zxxx, brrr, repeated, 3, 2, 0, 0, 0) \
  S(zxxy, brrg, repeated, 3, 2, 0, 0, 1) S(zxxz, brrb, repeated, 3, 2, 0, 0, 2) \
  S(zxxw, brra, repeated, 4, 2, 0, 0, 3) S(zxyx, brgr, repeated, 3, 2, 0, 1, 0) \
  S(zxyy, brgg, repeated, 3, 2, 0, 1, 1) S(zxyz, brgb, repeated, 3, 2, 0, 1, 2) \
  S(zxyw, brga, range, 4, 2, 0, 1, 3) S(zxzx, brbr, repeated, 3, 2, 0, 2, 0) \
  S(zxzy, brbg, repeated, 3, 2, 0, 2, 1) S(zxzz, brbb, repeated, 3, 2, 0, 2, 2) \
  S(zxzw, brba, repeated, 4, 2, 0, 2, 3) S(zxwx, brar, repeated, 4, 2, 0, 3, 0) \
  S(zxwy, brag, range, 4, 2, 0, 3, 1) S(zxwz, brab, repeated, 4, 2, 0, 3, 2) \
  S(zxww, braa, repeated, 4, 2, 0, 3, 3) S(zyxx, bgrr, repeated, 3, 2, 1, 0, 0) \
  S(zyxy, bgrg, repeated, 3, 2, 1, 0, 1) S(zyxz, bgrb, repeated, 3, 2, 1, 0, 2) \
  S(zyxw, bgra, range, 4, 2, 1, 0, 3) S(zyyx, bggr, repeated, 3, 2, 1, 1, 0) \
  S(zyzx, bgbr, repeated, 3, 2, 1, 2, 0) S(zywx, bgar, range, 4, 2, 1, 3, 0) \
  S(zzxx, bbrr, repeated, 3, 2, 2, 0, 0) S(zzxy, bbrg, repeated, 3, 2, 2, 0, 1) \
  S(zzxz, bbrb, repeated, 3, 2, 2, 0, 2) S(zzxw, bbra, repeated, 4, 2, 2, 0, 3) \
  S(zzyx, bbgr, repeated, 3, 2, 2, 1, 0) S(zzzx, bbbr, repeated, 3, 2, 2, 2, 0) \
  S(zzwx, bbar, repeated, 4, 2, 2, 3, 0) S(zwxx, barr, repeated, 4, 2, 3, 0, 0) \
  S(zwxy, barg, range, 4, 2, 3, 0, 1) S(zwxz, barb, repeated, 4, 2, 3, 0, 2) \
  S(zwxw, bara, repeated, 4, 2, 3, 0, 3) S(zwyx, bagr, range, 4, 2, 3, 1, 0) \
  S(zwzx, babr, repeated, 4, 2, 3, 2, 0) S(zwwx, baar, repeated, 4, 2, 3, 3, 0) \
  S(wxxx, arrr, repeated, 4, 3, 0, 0, 0) S(wxxy, arrg, repeated, 4, 3, 0, 0, 1) \
  S(wxxz, arrb, repeated, 4, 3, 0, 0, 2) S(wxxw, arra, repeated, 4, 3, 0, 0, 3) \
  S(wxyx, argr, repeated, 4, 3, 0, 1, 0) S(wxyy, argg, repeated, 4, 3, 0, 1, 1) \
  S(wxyz, argb, range, 4, 3, 0, 1, 2) S(wxyw, arga, repeated, 4, 3, 0, 1, 3) \
  S(wxzx, arbr, repeated, 4, 3, 0, 2, 0) S(wxzy, arbg, range, 4, 3, 0, 2, 1) \
  S(wxzz, arbb, repeated, 4, 3, 0, 2, 2) S(wxzw, arba, repeated, 4, 3, 0, 2, 3) \
  S(wxwx, arar, repeated, 4, 3, 0, 3, 0) S(wxwy, arag, repeated, 4, 3, 0, 3, 1) \
  S(wxwz, arab, repeated, 4, 3, 0, 3, 2) S(wxww, araa, repeated, 4, 3, 0, 3, 3) \
  S(wyxx, agrr, repeated, 4, 3, 1, 0, 0) S(wyxy, agrg, repeated, 4, 3, 1, 0, 1) \
  S(wyxz, agrb, range, 4, 3, 1, 0, 2) S(wyxw, agra, repeated, 4, 3, 1, 0, 3) \
  S(wyyx, aggr, repeated, 4, 3, 1, 1, 0) S(wyzx, agbr, range, 4, 3, 1, 2, 0) \
  S(wywx, agar, repeated, 4, 3, 1, 3, 0) S(wzxx, abrr, repeated, 4, 3, 2, 0, 0) \
  S(wzxy, abrg, range, 4, 3, 2, 0, 1) S(wzxz, abrb, repeated, 4, 3, 2, 0, 2) \
  S(wzxw, abra, repeated, 4, 3, 2, 0, 3) S(wzyx, abgr, range, 4, 3, 2, 1, 0) \
  S(wzzx, abbr, repeated, 4, 3, 2, 2, 0) S(wzwx, abar, repeated, 4, 3, 2, 3, 0) \
  S(wwxx, aarr, repeated, 4, 3, 3, 0, 0) S(wwxy, aarg, repeated, 4, 3, 3, 0, 1) \
  S(wwxz, aarb, repeated, 4, 3, 3, 0, 2) S(wwxw, aara, repeated, 4, 3, 3, 0, 3) \
  S(wwyx, aagr, repeated, 4, 3, 3, 1, 0) S(wwzx, aabr, repeated, 4, 3, 3, 2, 0) \
  S(wwwx, aaar, repeated, 4, 3, 3, 3, 0)

#define MSL_SWIZZLES4_Y(S) \
  S(yy, gg, repeated, 1, 0, 0) S(yz, gb, ordered, 2, 0, 1) S(yw, ga, gapped, 3, 0, 2) \
  S(zy, bg, range, 2, 1, 0) S(wy, ag, gapped, 3, 2, 0) S(yyy, ggg, repeated, 1, 0, 0, 0) \
  S(yyz, ggb, repeated, 2, 0, 0, 1) S(yyw, gga, repeated, 3, 0, 0, 2) \
  S(yzy, gbg, repeated, 2, 0, 1, 0) S(yzz, gbb, repeated, 2, 0, 1, 1) \
  S(yzw, gba, ordered, 3, 0, 1, 2) S(ywy, gag, repeated, 3, 0, 2, 0) \
  S(ywz, gab, range, 3, 0, 2, 1) S(yww, gaa, repeated, 3, 0, 2, 2) \
  S(zyy, bgg, repeated, 2, 1, 0, 0) S(zyz, bgb, repeated, 2, 1, 0, 1) \
  S(zyw, bga, range, 3, 1, 0, 2) S(zzy, bbg, repeated, 2, 1, 1, 0) \
  S(zwy, bag, range, 3, 1, 2, 0) S(wyy, agg, repeated, 3, 2, 0, 0) \
  S(wyz, agb, range, 3, 2, 0, 1) S(wyw, aga, repeated, 3, 2, 0, 2) \
  S(wzy, abg, range, 3, 2, 1, 0) S(wwy, aag, repeated, 3, 2, 2, 0) \
  S(yyyy, gggg, repeated, 1, 0, 0, 0, 0) S(yyyz, gggb, repeated, 2, 0, 0, 0, 1) \
  S(yyyw, ggga, repeated, 3, 0, 0, 0, 2) S(yyzy, ggbg, repeated, 2, 0, 0, 1, 0) \
  S(yyzz, ggbb, repeated, 2, 0, 0, 1, 1) S(yyzw, ggba, repeated, 3, 0, 0, 1, 2) \
  S(yywy, ggag, repeated, 3, 0, 0, 2, 0) S(yywz, ggab, repeated, 3, 0, 0, 2, 1) \
  S(yyww, ggaa, repeated, 3, 0, 0, 2, 2) S(yzyy, gbgg, repeated, 2, 0, 1, 0, 0) \
  S(yzyz, gbgb, repeated, 2, 0, 1, 0, 1) S(yzyw, gbga, repeated, 3, 0, 1, 0, 2) \
  S(yzzy, gbbg, repeated, 2, 0, 1, 1, 0) S(yzzz, gbbb, repeated, 2, 0, 1, 1, 1) \
  S(yzzw, gbba, repeated, 3, 0, 1, 1, 2) S(yzwy, gbag, repeated, 3, 0, 1, 2, 0) \
  S(yzwz, gbab, repeated, 3, 0, 1, 2, 1) S(yzww, gbaa, repeated, 3, 0, 1, 2, 2) \
  S(ywyy, gagg, repeated, 3, 0, 2, 0, 0) S(ywyz, gagb, repeated, 3, 0, 2, 0, 1) \
  S(ywyw, gaga, repeated, 3, 0, 2, 0, 2) S(ywzy, gabg, repeated, 3, 0, 2, 1, 0) \
  S(ywzz, gabb, repeated, 3, 0, 2, 1, 1) S(ywzw, gaba, repeated, 3, 0, 2, 1, 2) \
  S(ywwy, gaag, repeated, 3, 0, 2, 2, 0) S(ywwz, gaab, repeated, 3, 0, 2, 2, 1) \
  S(ywww, gaaa, repeated, 3, 0, 2, 2, 2) S(zyyy, bggg, repeated, 2, 1, 0, 0, 0) \
  S(zyyz, bggb, repeated, 2, 1, 0, 0, 1) S(zyyw, bgga, repeated, 3, 1, 0, 0, 2) \
  S(zyzy, bgbg, repeated, 2, 1, 0, 1, 0) S(zyzz, bgbb, repeated, 2, 1, 0, 1, 1) \
  S(zyzw, bgba, repeated, 3, 1, 0, 1, 2) S(zywy, bgag, repeated, 3, 1, 0, 2, 0) \
  S(zywz, bgab, repeated, 3, 1, 0, 2, 1) S(zyww, bgaa, repeated, 3, 1, 0, 2, 2) \
  S(zzyy, bbgg, repeated, 2, 1, 1, 0, 0) S(zzyz, bbgb, repeated, 2, 1, 1, 0, 1) \
  S(zzyw, bbga, repeated, 3, 1, 1, 0, 2) S(zzzy, bbbg, repeated, 2, 1, 1, 1, 0) \
  S(zzwy, bbag, repeated, 3, 1, 1, 2, 0) S(zwyy, bagg, repeated, 3, 1, 2, 0, 0) \
  S(zwyz, bagb, repeated, 3, 1, 2, 0, 1) S(zwyw, baga, repeated, 3, 1, 2, 0, 2) \
  S(zwzy, babg, repeated, 3, 1, 2, 1, 0) S(zwwy, baag, repeated, 3, 1, 2, 2, 0) \
  S(wyyy, aggg, repeated, 3, 2, 0, 0, 0) S(wyyz, aggb, repeated, 3, 2, 0, 0, 1) \
  S(wyyw, agga, repeated, 3, 2, 0, 0, 2) S(wyzy, agbg, repeated, 3, 2, 0, 1, 0) \
  S(wyzz, agbb, repeated, 3, 2, 0, 1, 1) S(wyzw, agba, repeated, 3, 2, 0, 1, 2) \
  S(wywy, agag, repeated, 3, 2, 0, 2, 0) S(wywz, agab, repeated, 3, 2, 0, 2, 1) \
  S(wyww, agaa, repeated, 3, 2, 0, 2, 2) S(wzyy, abgg, repeated, 3, 2, 1, 0, 0) \
  S(wzyz, abgb, repeated, 3, 2, 1, 0, 1) S(wzyw, abga, repeated, 3, 2, 1, 0, 2) \
  S(wzzy, abbg, repeated, 3, 2, 1, 1, 0) S(wzwy, abag, repeated, 3, 2, 1, 2, 0) \
  S(wwyy, aagg, repeated, 3, 2, 2, 0, 0) S(wwyz, aagb, repeated, 3, 2, 2, 0, 1) \
  S(wwyw, aaga, repeated, 3, 2, 2, 0, 2) S(wwzy, aabg, repeated, 3, 2, 2, 1, 0) \
  S(wwwy, aaag, repeated, 3, 2, 2, 2, 0)

#define MSL_SWIZZLES4_Z(S) \
  S(zz, bb, repeated, 1, 0, 0) S(zw, ba, ordered, 2, 0, 1) S(wz, ab, range, 2, 1, 0) \
  S(zzz, bbb, repeated, 1, 0, 0, 0) S(zzw, bba, repeated, 2, 0, 0, 1) \
  S(zwz, bab, repeated, 2, 0, 1, 0) S(zww, baa, repeated, 2, 0, 1, 1) \
  S(wzz, abb, repeated, 2, 1, 0, 0) S(wzw, aba, repeated, 2, 1, 0, 1) \
  S(wwz, aab, repeated, 2, 1, 1, 0) S(zzzz, bbbb, repeated, 1, 0, 0, 0, 0) \
  S(zzzw, bbba, repeated, 2, 0, 0, 0, 1) S(zzwz, bbab, repeated, 2, 0, 0, 1, 0) \
  S(zzww, bbaa, repeated, 2, 0, 0, 1, 1) S(zwzz, babb, repeated, 2, 0, 1, 0, 0) \
  S(zwzw, baba, repeated, 2, 0, 1, 0, 1) S(zwwz, baab, repeated, 2, 0, 1, 1, 0) \
  S(zwww, baaa, repeated, 2, 0, 1, 1, 1) S(wzzz, abbb, repeated, 2, 1, 0, 0, 0) \
  S(wzzw, abba, repeated, 2, 1, 0, 0, 1) S(wzwz, abab, repeated, 2, 1, 0, 1, 0) \
  S(wzww, abaa, repeated, 2, 1, 0, 1, 1) S(wwzz, aabb, repeated, 2, 1, 1, 0, 0) \
  S(wwzw, aaba, repeated, 2, 1, 1, 0, 1) S(wwwz, aaab, repeated, 2, 1, 1, 1, 0)

#define MSL_SWIZZLES4_W(S) \
  S(ww, aa, repeated, 1, 0, 0) S(www, aaa, repeated, 1, 0, 0, 0) \
  S(wwww, aaaa, repeated, 1, 0, 0, 0, 0)

